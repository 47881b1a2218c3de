-- The overlay commands, for Lmod. The file of this name without .lua beside it is the same
-- for Environment Modules: change both. `make install` gives both the name of the version.

local version = myModuleVersion()

local function kind(path)
   return lfs.attributes(path, "mode")
end

-- The place of this file tells where the tree is: an installation has PREFIX/VERSION
-- beside PREFIX/modulefiles; a package of the distribution has lib/overlay/VERSION beside
-- share/modulefiles; a clone of the repository is the tree itself.
local root = myFileName():gsub("/+[^/]+/+[^/]+/+[^/]+$", "")
local packaged = root:gsub("/share$", "/lib/overlay")
if packaged ~= root and kind(pathJoin(packaged, version)) then
   root = packaged
end
local tree = root
if kind(pathJoin(root, version, "bin")) == "directory" then
   tree = pathJoin(root, version)
end
local bin = pathJoin(tree, "bin")

if mode() == "load" and not (kind(pathJoin(bin, "run-overlay")) and kind(pathJoin(tree, "lib"))) then
   LmodError("the installation of overlay in ", tree, " is not complete: bin/run-overlay or lib is missing")
end

whatis("Name: overlay")
whatis("Version: " .. version)
whatis("Category: tools, containers")
whatis("Description: one file that holds as many files as you need, laid over a container")

help([[
An overlay is one file that holds as many files as you need: environments, packages, data
sets of very many small files. It is laid over a container, and what is written stays in it.

  create-overlay -s 500 -n 700                          500 MB for 700 thousand files
  mount-overlay -o overlay-500M-700K.ext3               a shell in it
  run-overlay -o overlay-500M-700K.ext3 -f FILE         run the commands of FILE in it

Each command has --help and a manual page; `man 7 overlay` is the overview.
]])

prepend_path("PATH", bin)
local pages = pathJoin(tree, "share/man")
local own_pages_only = true
for place in (os.getenv("MANPATH") or ""):gmatch("[^:]+") do
   own_pages_only = own_pages_only and place == pages
end
prepend_path("MANPATH", pages)
if own_pages_only then
   -- MANPATH was not set. The empty part stands for the system's own pages.
   append_path("MANPATH", "")
end

-- ------------------------------------------------------------------ the site's choices --

-- The hook of the site lies beside its overlay.ini; which file that is, is as in overlay.ini(5).
local config = os.getenv("OVERLAY_CONFIG") or ""
if config == "" then
   config = pathJoin(tree, "etc/overlay.ini")
   local kept = pathJoin(root, "etc")
   if kind(pathJoin(tree, ".installed")) and (kind(pathJoin(kept, "overlay.ini")) or kind(pathJoin(kept, "overlay.d"))) then
      config = pathJoin(kept, "overlay.ini")
   end
end
local directory = config:match("^(.*)/[^/]*$") or "."

-- One of somebody else, or that everybody may write, is left out as settings are; lfs knows no sticky
-- bits, so directories are not looked at.
local owners = { [0] = true, [lfs.attributes(pathJoin(tree, "lib"), "uid") or 0] = true }
if (os.getenv("OVERLAY_CONFIG") or "") ~= "" then
   owners[lfs.attributes("/proc/self", "uid") or 0] = true
end

local function obeyed(path)
   if kind(path) ~= "file" then return false end
   if owners[lfs.attributes(path, "uid")] and lfs.attributes(path, "permissions"):sub(8, 8) ~= "w" then
      return true
   end
   if mode() == "load" then
      LmodMessage("overlay: warning: " .. path .. " is left out: it belongs to somebody else,"
         .. " or everybody may write it")
   end
   return false
end

-- What stands in the settings is the program's to read: a line says `module NAME`, `missing COMMANDS`
-- or `warning TEXT`. What only tells of the module does without.
local unasked = { spider = true, whatis = true, help = true }
local program = pathJoin(tree, "lib/overlay/helpers/for-modulefiles")
local said = ""
if not unasked[mode()] and kind(program) then
   said = capture("'" .. program:gsub("'", "'\\''") .. "'") or ""
end
for word, rest in said:gmatch("(%l+) ([^\n]*)") do
   if word == "module" then
      if mode() == "load" and not isloaded(rest) and not isAvail(rest) then
         LmodError("overlay needs the module ", rest, " ([engine] module in ", directory,
            "), and there is none of that name: ask your site's support")
      end
      depends_on(rest)
   elseif mode() == "load" and word == "missing" then
      LmodMessage("overlay: warning: no container engine is on PATH (" .. rest ..
         "): load the module that brings it; `module spider apptainer` may find it")
   elseif mode() == "load" then
      LmodMessage("overlay: warning: " .. rest)
   end
end

-- ------------------------------------------------------------------------- completion --

local commands = {}
if kind(bin) == "directory" then
   for name in lfs.dir(bin) do
      if name:find("^[%w-]+$") then commands[#commands + 1] = name end
   end
end
table.sort(commands)
commands = table.concat(commands, " ")

local bash = pathJoin(tree, "share/bash-completion/completions/overlay")
local zsh = pathJoin(tree, "share/zsh/site-functions")
if myShellName() == "bash" and kind(bash) then
   execute{cmd = ". '" .. bash .. "'", modeA = {"load"}}
   execute{cmd = "complete -r " .. commands .. " 2>/dev/null; unset -f $(compgen -A function _overlay)",
      modeA = {"unload"}}
elseif myShellName() == "zsh" and kind(zsh) then
   execute{cmd = "fpath=('" .. zsh .. "' $fpath); autoload -Uz _overlay;"
      .. " (( ! $+functions[compdef] )) || compdef _overlay " .. commands, modeA = {"load"}}
   execute{cmd = "fpath=(\"${(@)fpath:#" .. zsh .. "}\"); unfunction _overlay 2>/dev/null;"
      .. " (( ! $+functions[compdef] )) || compdef -d " .. commands, modeA = {"unload"}}
end

-- What the site adds: a file of its own, so that an upgrade keeps it.
local hook = pathJoin(directory, "site.lua")
if obeyed(hook) then
   -- Lua 5.1 has no _ENV and no need of it: there Lmod's functions are global.
   assert(loadfile(hook, "t", _ENV))()
end
