# `make` shows what there is to make.

OVERLAY_WORK ?= /opt/overlay-work
PREFIX ?= /opt/overlay
PYTHON ?= /usr/bin/python3
DESTDIR ?=

TOOLS := $(OVERLAY_WORK)/venv/bin
# Not by `command -v`: some versions of make look for such a program and not for a shell.
PYTHON3 := $(or $(wildcard $(TOOLS)/python3),python3)
RUFF := $(or $(wildcard $(TOOLS)/ruff),ruff)
MYPY := $(or $(wildcard $(TOOLS)/mypy),mypy)
CODESPELL := $(or $(wildcard $(TOOLS)/codespell),codespell)
PYTEST := $(PYTHON3) -m pytest

# A value from outside (PYTHONPATH, PYTHONHOME) must not change what is installed, and
# the order of sets in compiled files follows the seed of the hashes.
CLEAN_PYTHON = env -i PATH="$$PATH" LC_ALL=C.UTF-8 PYTHONHASHSEED=0 PYTHONDONTWRITEBYTECODE=1 \
	$(PYTHON) -S

# What is Python of the tools.
SCRIPTS := tools/benchmark tools/completions tools/install tools/pictures tools/record tools/release
PACKAGES := tools/benchmarks tools/drawing
LAUNCHERS := bin/* lib/overlay/helpers/for-modulefiles lib/overlay/helpers/unsynced/without-syncs

export OVERLAY_WORK

.PHONY: help demo test check lint format unit soak reference completions performance pictures release install install-alone uninstall clean

help:
	@echo 'make demo       set the machine up, then show the commands at work, as an ordinary user'
	@echo 'make test       set the machine up, then run all tests'
	@echo 'make check      the quick part: unit tests under this Python, and lint'
	@echo 'make lint       style, types, spelling: ruff, mypy, codespell and shellcheck'
	@echo 'make format     write every Python file as lint wants it'
	@echo 'make soak       the long rounds'
	@echo 'make reference  write etc/overlay.ini from the table of settings'
	@echo 'make completions    the completions of bash and zsh from the parsers'
	@echo 'make performance    measure, as root, and write docs/performance.md; ten minutes'
	@echo 'make pictures   the pictures of docs from what was measured and recorded'
	@echo 'make release    archives and packages in dist and a tag, after a look at version and changelog'
	@echo 'make install    PREFIX=/share/apps/overlay [PYTHON=/usr/bin/python3] [DESTDIR=]'
	@echo 'make install-alone  DIRECTORY=/apps/overlay/1.1: one version without modulefiles, for EasyBuild'
	@echo 'make uninstall  remove this version from PREFIX; the settings of the site stay'
	@echo 'make clean      remove what building and testing left'

demo:
	@tools/demo

test:
	@tools/test

soak:
	@tools/test soak

check: unit lint

# In two halves at the same time: it is the part that one waits for.
unit:
	@export PYTHONDONTWRITEBYTECODE=1; $(PYTEST) -q -p no:cacheprovider tests/unit/test_[a-l]*.py & first=$$!; \
	$(PYTEST) -q -p no:cacheprovider tests/unit/test_[m-z]*.py; second=$$?; wait $$first && exit $$second

lint:
	$(RUFF) check --no-cache lib tests setup.py $(SCRIPTS) $(PACKAGES)
	$(RUFF) format --no-cache --check lib tests setup.py $(SCRIPTS) $(PACKAGES) $(LAUNCHERS)
	# The launchers must be read by a Python that is too old, to say so.
	$(RUFF) check --no-cache --ignore E402,UP,I $(LAUNCHERS)
	$(MYPY) --no-error-summary
	$(CODESPELL) .ci bin docs etc lib modulefiles packaging share tests tools *.md *.ini setup.* Makefile
	shellcheck .ci/run $(filter-out $(SCRIPTS) $(PACKAGES) tools/%.txt tools/%.zsh,$(wildcard tools/*)) \
		$(wildcard tests/prepare-* tests/slurm-*) tests/soak/quota-guest $(filter-out %/without-syncs,$(wildcard lib/overlay/helpers/*/*)) lib/overlay/expose/start

completions:
	@PYTHONPATH=lib PYTHONDONTWRITEBYTECODE=1 tools/completions share

format:
	$(RUFF) format --no-cache lib tests setup.py $(SCRIPTS) $(PACKAGES) $(LAUNCHERS)

reference:
	LC_ALL=C.UTF-8 PYTHONPATH=lib PYTHONDONTWRITEBYTECODE=1 python3 -c \
		'from overlay.settings.reference import site_ini; print(site_ini(), end="")' >etc/overlay.ini.new
	mv etc/overlay.ini.new etc/overlay.ini

# As root, on a quiet machine: it mounts a slow file system.
performance:
	@tools/performance

pictures:
	@tools/performance --only-write

release: check
	@$(PYTHON3) tools/release

install:
	@$(CLEAN_PYTHON) tools/install "$(PREFIX)" "$(DESTDIR)"

install-alone:
	@$(CLEAN_PYTHON) tools/install --alone "$(DIRECTORY)"

uninstall:
	@$(CLEAN_PYTHON) tools/install --uninstall "$(PREFIX)" "$(DESTDIR)"

clean:
	rm -rf build dist .tox .pytest_cache .ruff_cache lib/*.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +
