"""Everything is in setup.cfg; here stands what only code can say."""

import glob
import os
import re
import shutil
import time

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

from distutils.command.build_scripts import build_scripts  # isort: skip; setuptools brings it

# What a launcher does instead when pip has installed it. pip leaves out the options of an
# interpreter, and with --prefix and --target Python does not look where the modules are.
START = """\
where = "lib/python%d.%d/" % sys.version_info[:2]
places = [os.path.join(root, name) for name in (where + "site-packages", where + "dist-packages", "")]
places = [place for place in places if os.path.exists(os.path.join(place, "overlay", "cli.py"))]
# What stands before the standard library is not ours: the user's PYTHONPATH.
sys.path[:] = places[:1] + sys.path[sys.path.index(os.path.dirname(os.__file__)) :]
"""


class Modules(build_py):
    """The modules, and etc/overlay.ini beside them: that is where they look for it."""

    def run(self):
        """Build from what is there now: an earlier build may have left modules that are gone."""
        shutil.rmtree(os.path.join(self.build_lib, "overlay"), ignore_errors=True)
        super().run()
        self.copy_file("etc/overlay.ini", self._configuration())

    def get_outputs(self, include_bytecode=True):
        """Name the configuration too, so that it is removed with the rest."""
        return [*super().get_outputs(include_bytecode), self._configuration()]

    def get_source_files(self):
        """Name the configuration too, so that a source archive holds it."""
        return [*super().get_source_files(), "etc/overlay.ini"]

    def _configuration(self):
        return os.path.join(self.build_lib, "overlay", "overlay.ini")


class Launchers(build_scripts):
    """The launchers, which find the modules where pip puts them."""

    def run(self):
        """Build them, with another way to the modules."""
        shutil.rmtree(self.build_dir, ignore_errors=True)
        super().run()
        for name in os.listdir(self.build_dir):
            path = os.path.join(self.build_dir, name)
            with open(path, encoding="utf-8") as file:
                text = file.read()
            text = re.sub(r"^(#!.*) -IS\n", r"\1\n", text)
            text, found = re.subn(
                r"^sys\.path\.insert\(.*\n", lambda _line: START, text, flags=re.M
            )
            assert found == 1, path
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)


class Source(sdist):
    """The source archive, in which the files of other packagers know version and changes."""

    def make_release_tree(self, base_dir, files):
        """Make the tree, and fill in what a checkout leaves open."""
        super().make_release_tree(base_dir, files)
        version = self.distribution.get_version()
        for path in glob.glob(os.path.join(base_dir, "packaging", "*")):
            with open(path, encoding="utf-8") as file:
                text = file.read()
            os.unlink(path)  # a hard link to that of the checkout, maybe
            with open(path, "w", encoding="utf-8") as file:
                file.write(
                    text.replace("@VERSION@", version).replace("@CHANGES@", changes(version))
                )
            os.chmod(path, 0o644)


def changes(version):
    """Return the first entry of CHANGELOG.md as an entry of an RPM's %changelog."""
    with open("CHANGELOG.md", encoding="utf-8") as file:
        heading, _end, entry = file.read().partition("\n## ")[2].partition("\n")
    released = re.search(r"\((\d+-\d+-\d+)\)", heading)
    if released:
        day = time.strptime(released[1], "%Y-%m-%d")
    else:
        day = time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", time.time())))
    entry = entry.partition("\n## ")[0].strip().replace("%", "%%")
    return f"* {time.strftime('%a %b %d %Y', day)} the overlay authors - {version}-1\n{entry}"


def shared():
    """Return manual pages and completions, as data_files has them."""
    return [
        (place, sorted(os.path.join(place, name) for name in names))
        for place, _directories, names in sorted(os.walk("share"))
        if names
    ]


setup(
    scripts=sorted(glob.glob("bin/*")),
    data_files=shared(),
    cmdclass={"build_py": Modules, "build_scripts": Launchers, "sdist": Source},
)
