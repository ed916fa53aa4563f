# Two commands do all the set-up: `make demo` and `make test`. `make help` lists the rest.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
PYTHON ?= python3
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
APT_INSTALL := $(SUDO) DEBIAN_FRONTEND=noninteractive apt-get install -qq -o DPkg::Lock::Timeout=600 --no-install-recommends
# Tools that call each other need the virtualenv on PATH.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# Compile installed packages when they are used first.
unexport PYTHONDONTWRITEBYTECODE
# uv has its own CA certificates; the system's store also has those of a company's proxy.
export SSL_CERT_FILE ?= /etc/ssl/certs/ca-certificates.crt
.PHONY: help demo test test-more lint docs test-units prove lock audit stop clean distclean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

demo: .venv/ready  ## boot three hosts on this machine, install everything, run the pipeline, show the result
	@python -m lab.demo

test: .venv/ready  ## everything that CI runs: lint, unit tests, the site and each role on labs (molecule/run.py --help)
	@python molecule/run.py test

test-more: .venv/ready  ## the scenarios that `make test` leaves out for time (python molecule/run.py --dry-run test-more)
	@python molecule/run.py test-more

lint: .venv/ready  ## yamllint, ruff, ansible-lint; docs/variables.md is up to date
	yamllint --strict .
	ruff check
	ruff format --check
	python docs/variables.py --check
	@# ansible-lint uses one CPU: two halves need half the time. The labs of `make test` need the CPUs more.
	printf '%s\n' '--exclude roles' roles | nice xargs -P 2 -L 1 ansible-lint -q --offline --strict

docs: .venv/ready  ## write docs/variables.md from the roles' meta/argument_specs.yml
	python docs/variables.py

test-units: .venv-dags/ready  ## contracts of the roles; unit tests of dags/ in the locked environment of an edge host
	nice python -m pytest tests/controller
	nice .venv-dags/bin/python -m pytest tests/dags

# Exported: a break's name may have an apostrophe.
prove: export BREAKS := $(BREAKS)
prove: .venv/ready  ## break a converged lab on purpose: the tests have to notice, and to name the cause
	LAB=prove python -m lab.prove "$$BREAKS"

lock: .venv/ready  ## renew the hash-pinned files in requirements/ from the ranges in pyproject.toml
	for group in uv controller build main edge dags-test audit; do \
	    uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	        --custom-compile-command 'make lock' --group pyproject.toml:$$group --output-file requirements/$$group.txt || exit 1; \
	done

audit: .venv-audit/ready  ## known vulnerabilities in what hosts install; an SBOM of each kind of host in .cache/ (CycloneDX)
	@mkdir -p .cache
	for group in main edge; do \
	    .venv-audit/bin/cyclonedx-py requirements --output-file .cache/sbom-$$group.json requirements/$$group.txt || exit 1; \
	done
	@# --strict: a package that the vulnerability service does not know is not known to be safe.
	for group in build main edge; do \
	    .venv-audit/bin/pip-audit --strict --progress-spinner off --disable-pip --require-hashes -r requirements/$$group.txt || failed=1; \
	done; exit $${failed:-0}

stop: .venv/ready  ## shut the demo's hosts down; `make demo` boots them again
	python -m lab stop

clean:  ## remove the labs: hosts, disks, images, namespaces, NAT rules
	for lab in $(filter-out images snapshots,$(notdir $(wildcard .lab/*))); do LAB=$$lab $(PYTHON) -m lab destroy || exit 1; done
	$(SUDO) rm -rf .lab

distclean: clean  ## remove the virtualenvs and caches, too
	rm -rf .venv .venv-audit .venv-dags .cache .ansible .molecule

# A virtualenv is complete when its file `ready` is newer than its lock.
.venv/ready: requirements/uv.txt requirements/controller.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "This needs Python 3.11 or newer; set PYTHON=")'
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { $(SUDO) apt-get update -qq && $(APT_INSTALL) python3-venv >/dev/null; }
	@echo "Making .venv with the controller's tools"
	@$(PYTHON) -m venv --clear .venv
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@.venv/bin/uv pip sync --quiet --python .venv --require-hashes requirements/controller.txt
	@# The command `airflow-feed`, from the code that the hosts get.
	@printf '#!/bin/sh\nPYTHONPATH="%s" exec "%s" -m feed "$$@"\n' '$(CURDIR)/dag_modules' '$(CURDIR)/.venv/bin/python' >.venv/bin/airflow-feed
	@chmod +x .venv/bin/airflow-feed
	@touch $@

.venv-audit/ready: requirements/audit.txt
.venv-dags/ready: requirements/dags-test.txt
.venv-audit/ready .venv-dags/ready: .venv/ready
	@echo "Making $(@D) from $(filter requirements/%,$^)"
	@uv venv --quiet --clear --python $(PYTHON) $(@D)
	@uv pip sync --quiet --python $(@D) --require-hashes $(filter requirements/%,$^)
	@touch $@

# The browser of the scenarios default, proxy and variables.
/usr/bin/chromedriver:
	@echo "Installing chromium-driver"
	@$(SUDO) apt-get update -qq && $(APT_INSTALL) chromium-driver >/dev/null
