"""Texts that follow from the tables of the program."""

import os
import subprocess
import sys

import pytest
from overlay.settings import config as configuration
from overlay.settings import reference
from overlay.settings.table import SETTINGS
from support import ROOT


def test_site_ini():
    """etc/overlay.ini is what the table of settings gives."""
    with open(os.path.join(ROOT, "etc", "overlay.ini"), encoding="utf-8") as file:
        assert file.read() == reference.site_ini()


@pytest.mark.parametrize(
    "name", ["bash-completion/completions/overlay", "zsh/site-functions/_overlay"]
)
def test_completions(tmp_path, name):
    """The completions in share/ are what the parsers of the commands give."""
    tool = os.path.join(ROOT, "tools", "completions")
    environ = {**os.environ, "PYTHONPATH": os.path.join(ROOT, "lib"), "LC_ALL": "C.UTF-8"}
    subprocess.run([sys.executable, tool, tmp_path], check=True, env=environ)
    with open(os.path.join(ROOT, "share", name), encoding="utf-8") as file:
        assert file.read() == (tmp_path / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_site_ini_is_complete(setting):
    """Every key stands in etc/overlay.ini, in its section, at its default."""
    section = reference.site_ini().partition(f"[{setting.section}]\n")[2].partition("\n[")[0]
    if setting.is_chosen:
        assert f" = {setting.example}\n" in section
    else:
        assert f"\n{setting.key} = {setting.default}".rstrip() + "\n" in section


def test_site_ini_loads(environ, site):
    """etc/overlay.ini loads, and changes no default but the list of images."""
    site.write_text(reference.site_ini())
    found = configuration.load({"OVERLAY_CONFIG": str(site)}, "/nowhere")
    plain = configuration.Config({})
    for setting in SETTINGS:
        if not setting.is_chosen:
            assert found[setting.name] == plain[setting.name]
    path = "/share/apps/admin/singularity-images/centos-8.2.2004.sif"
    assert found.images() == {"centos-8.2.2004": path}
