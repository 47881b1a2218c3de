-- The overlay commands, for Lmod. The file of this name without .lua beside it is the same
-- for Environment Modules: change both. `make install` gives both the name of the version.

local version = myModuleVersion()

local function kind(path)
   return lfs.attributes(path, "mode")
end

-- The place of this file tells where the tree is: an installation has PREFIX/VERSION
-- beside PREFIX/modulefiles; a clone of the repository is the tree itself.
local root = myFileName():gsub("/+[^/]+/+[^/]+/+[^/]+$", "")
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

-- Which files these are, and how they are read, is as in overlay.ini(5).
local config = os.getenv("OVERLAY_CONFIG") or ""
if config == "" then
   config = pathJoin(tree, "etc/overlay.ini")
   local kept = pathJoin(root, "etc/overlay.ini")
   if kind(pathJoin(tree, ".installed")) and kind(kept) then
      config = kept
   end
end
local directory = config:match("^(.*)/[^/]*$") or "."

-- Files of somebody else, or that everybody may write, are left out as in lib/overlay/trust.py;
-- lfs knows no sticky bits, so directories are not looked at.
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

local engine = { module = "", commands = "apptainer singularity" }

local function read(path)
   local file = obeyed(path) and io.open(path)
   if not file then return end
   local section, key, depth
   for line in file:lines() do
      local indent, text = line:match("^(%s*)(.-)%s*$")
      if text == "" or text:find("^[#;]") then
         -- A value may go on behind it.
      elseif key and #indent > depth then
         -- Deeper than its key: the value goes on.
         if section == "engine" then engine[key] = engine[key] .. " " .. text end
      elseif text:find("^%[") then
         section, key = text:match("^%[([^%]]+)%]"), nil
      else
         local value
         key, value = text:match("^(.-)%s*=%s*(.*)$")
         depth = #indent
         if key and section == "engine" then engine[key] = value end
      end
   end
   file:close()
end

read(config)
local names = {}
if kind(pathJoin(directory, "overlay.d")) == "directory" then
   for name in lfs.dir(pathJoin(directory, "overlay.d")) do
      if name:find("^[^.].*%.ini$") then names[#names + 1] = name end
   end
end
table.sort(names)
for _, name in ipairs(names) do
   read(pathJoin(directory, "overlay.d", name))
end

local function is_program(path)
   return kind(path) == "file" and lfs.attributes(path, "permissions"):find("x")
end

local function engine_found()
   for word in engine.commands:gsub("[\"']", ""):gmatch("%S+") do
      if word:find("/") then
         if is_program(word) then return true end
      else
         for place in (os.getenv("PATH") or ""):gmatch("[^:]+") do
            if is_program(pathJoin(place, word)) then return true end
         end
      end
   end
   return false
end

if engine.module ~= "" and engine.module ~= "none" then
   if mode() == "load" and not isloaded(engine.module) and not isAvail(engine.module) then
      LmodError("overlay needs the module ", engine.module, " ([engine] module in ", directory,
         "), and there is none of that name: ask your site's support")
   end
   depends_on(engine.module)
elseif engine.module == "" and mode() == "load" and not engine_found() then
   LmodMessage("overlay: warning: no container engine is on PATH (" .. engine.commands ..
      "): load the module that brings it; `module spider apptainer` may find it")
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
