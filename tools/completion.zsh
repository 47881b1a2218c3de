#compdef @programs@

# Completion of the overlay commands for zsh; `module load overlay` puts it on fpath.
# Made by `make completions` from tools/completion.zsh and the parsers of the commands.

local curcontext=$curcontext state line tree config file text section expl
local -a names
local -A opt_args

case $service in
    # @commands@
esac

case $state in
    overlays | ext3)
        if [[ $service == (mount|run)-overlay ]] && compset -P '*:'; then
            _wanted modes expl 'mode' compadd ro rw
            return
        fi
        text='ext3|img'
        [[ $state == ext3 ]] || text+='|sqsh|squashfs|sqfs|sfs'
        # Not _files, which offers all files when none fits.
        _alternative "overlays:overlay:_path_files -g '*.($text)(-.)'" \
            'directories:directory:_path_files -/'
        ;;
    images | templates)
        # The names of a section of overlay.ini(5), from the files that the commands read.
        tree=${${funcsourcetrace[1]%:*}:A:h:h:h:h}
        config=${OVERLAY_CONFIG:-}
        if [[ -z $config ]]; then
            config=$tree/etc/overlay.ini
            [[ -e $tree/.installed && (-e $tree:h/etc/overlay.ini || -e $tree:h/etc/overlay.d) ]] &&
                config=$tree:h/etc/overlay.ini
        fi
        for file in $config $config:h/overlay.d/*.ini(N) \
            ${XDG_CONFIG_HOME:-$HOME/.config}/overlay/overlay.ini; do
            [[ -f $file && -r $file ]] || continue
            section=
            while IFS= read -r text || [[ -n $text ]]; do
                case $text in
                    '['*) section=${${text#'['}%%]*} ;;
                    [[:space:]#\;]*) ;;
                    *=*)
                        text=${text%%=*}
                        text=${text%"${text##*[![:space:]]}"}
                        # Of other letters some are code, for the line itself at last.
                        [[ $section == $state && $text != default &&
                            $text != *[^[:alnum:]._+@%:,-]* ]] && names+=($text)
                        ;;
                esac
            done <$file
        done
        if [[ $state == images ]]; then
            _alternative "images:base image:compadd -a names" "files:file:_path_files -g '*.sif(-.)'" \
                'directories:directory:_path_files -/'
        else
            _wanted templates expl 'template' compadd -a names
        fi
        ;;
esac
