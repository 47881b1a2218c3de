"""Everything is in setup.cfg; here stands what only code can say."""

import glob
import os
import re
import shutil

from setuptools import setup
from setuptools.command.build_py import build_py

from distutils.command.build_scripts import build_scripts  # isort: skip; setuptools brings it


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
    """The launchers, without -S: the modules are among the site packages now."""

    def run(self):
        """Build them, and keep -I alone of the options of their interpreter."""
        shutil.rmtree(self.build_dir, ignore_errors=True)
        super().run()
        for name in os.listdir(self.build_dir):
            path = os.path.join(self.build_dir, name)
            with open(path, encoding="utf-8") as file:
                text = file.read()
            with open(path, "w", encoding="utf-8") as file:
                file.write(re.sub(r"^(#!.*) -IS\n", r"\1 -I\n", text))


setup(
    scripts=sorted(glob.glob("bin/*")),
    cmdclass={"build_py": Modules, "build_scripts": Launchers},
)
