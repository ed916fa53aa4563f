# Two commands do all the set-up: `make demo` and `make test`. `make help` lists the rest.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
PYTHON ?= python3
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
# Tools that look each other up need the virtualenv on PATH.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# What is installed is compiled when it is used first.
unexport PYTHONDONTWRITEBYTECODE
# uv brings certificates of its own; the system's store knows a company's proxy, too.
export SSL_CERT_FILE ?= /etc/ssl/certs/ca-certificates.crt

# `site` is default up to its tests, `long` has those of outages that take minutes each. In this order a lab has gone before the
# next one boots, where only one thing is done at a time.
SCENARIOS := $(addprefix molecule-,site default airflow_edge outages security nas airflow_dags redis mysql preflight)
MORE := $(addprefix molecule-,feeds long rotation celery proxy variables endurance)
.PHONY: help demo test test-more lint docs test-units molecule $(SCENARIOS) $(MORE) destroy prove lock audit stop clean distclean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

demo: .venv/ready  ## boot three hosts on this machine, install everything, run the pipeline, show what came out
	@python -m lab.demo

# Beside the first scenario, which takes longest.
test: CHECKS := lint test-units
test: molecule  ## everything that CI runs: lint, unit tests, all scenarios

test-more: $(MORE)  ## what `make test` leaves out for time: feeds from an outside service, long outages, secrets renewed on a running site, a second Celery host, your own certificates and reverse proxy, other variables, power cuts and large files

lint: .venv/ready  ## yamllint, ruff, ansible-lint; each role's variables are the same in defaults, argument_specs and README
	yamllint --strict .
	ruff check
	ruff format --check
	@# Two halves, beside each other: each takes one CPU, which the labs of `make test` need more.
	@echo ansible-lint --offline --strict; \
	nice ansible-lint -q --offline --strict --exclude roles & trap "kill $$! 2>/dev/null" EXIT; trap "exit 130" INT; \
	nice ansible-lint -q --offline --strict roles || failed=1; \
	mkdir -p .cache; for role in roles/*/; do \
	    nice ansible-docsmith validate --config .ansible-docsmith.toml $$role >.cache/docsmith 2>&1 && \
	    nice ansible-docsmith generate --config .ansible-docsmith.toml --check $$role >.cache/docsmith 2>&1 || \
	    { cat .cache/docsmith; echo "$$role: correct what is said above; \`make docs\` writes README.md anew"; failed=1; break; }; \
	done; wait $$! && exit $${failed:-0}

docs: .venv/ready  ## write the table of variables in each role's README.md, from its meta/argument_specs.yml
	@for role in roles/*/; do ansible-docsmith generate --config .ansible-docsmith.toml $$role; done

test-units: .venv-dags/ready  ## contracts of the roles; unit tests of dags/ in the locked environment of an edge host
	nice python -m pytest tests/controller
	nice .venv-dags/bin/python -m pytest tests/dags

molecule: .venv/ready  ## the site and its roles on labs of their own: check, converge, idempotence, reboot, verify
	@rm -f .cache/molecule-*.log
	@# Hosts that an interrupted run has left have their memory still.
	@$(MAKE) --no-print-directory destroy
	@# What failed is said again at the end: the scenarios' lines are mixed.
	@$(MAKE) --no-print-directory --jobs $${JOBS:-$$($(JOBS_THAT_FIT))} $(firstword $(SCENARIOS)) $(CHECKS) $(SCENARIOS) || { \
	    $(FAILURES) .cache/molecule-*.log | tail -n 150; failed=1; }; \
	    $(MAKE) --no-print-directory destroy; exit $${failed:-0}

# By itself: what calls make is run by `make -n`, too.
destroy:
	@for lab in default roles; do LAB=$$lab python -m lab destroy; done

FAILURES := grep -hE -A 20 '^[a-z_]+ \| .*(fatal: |FAILED! |Traceback |lab: |dpkg: error )|^[a-z_]+ \| (E  |FAILED |ERROR )'

# A site, a new edge host beside it and the roles' hosts, when /dev/shm has the memory: so many keep two cores busy.
JOBS_THAT_FIT := df --output=avail --block-size=G /dev/shm | awk 'NR == 2 {print ($$1 + 0 < 15) ? 1 : 3}'
# To boot a site takes minutes: airflow_edge, which brings a host of its own, outages and security go on with that of default.
SCENARIO_site := default
SCENARIO_long := outages
molecule-default: molecule-site /usr/bin/chromedriver
molecule-proxy molecule-variables: /usr/bin/chromedriver
molecule-airflow_edge: molecule-site
molecule-outages: molecule-default molecule-airflow_edge
molecule-security: molecule-outages
PYTEST_outages := -m 'not long'
PYTEST_long := -m long
# The other roles follow each other in one lab, each on hosts that do not have it. In `make test` the last two go beside outages:
# that one waits most of the time.
molecule-airflow_dags: molecule-nas
molecule-redis: molecule-airflow_dags
molecule-mysql: molecule-redis $(filter molecule-default molecule-airflow_edge,$(MAKECMDGOALS))
molecule-preflight: molecule-mysql
$(foreach scenario,site airflow_edge outages security,$(eval LAB_OF_$(scenario) := default))
$(foreach scenario,nas airflow_dags redis mysql preflight,$(eval LAB_OF_$(scenario) := roles))
COMMANDS_site := check converge idempotence side-effect
$(foreach scenario,default outages security,$(eval COMMANDS_$(scenario) := verify))
$(foreach scenario,airflow_edge nas airflow_dags redis mysql preflight,$(eval COMMANDS_$(scenario) := "test --destroy never"))
# The first scenario of a lab begins with a new one, the last removes it.
$(SCENARIOS) $(MORE): molecule-%: .venv/ready
	@# Molecule remembers a scenario that was interrupted, and would leave steps out. Its colours bring frames with them.
	@rm -rf .cache/molecule/$*; mkdir -p .cache
	@export LAB=$(or $(LAB_OF_$*),$*) NO_COLOR=1 PYTEST_ADDOPTS="$(PYTEST_$*) $$PYTEST_ADDOPTS"; \
	    export MOLECULE_EPHEMERAL_DIRECTORY=$(CURDIR)/.cache/molecule/$*; { \
	    $(if $(filter site nas,$*),python -m lab destroy || exit 1;) \
	    for command in $(or $(COMMANDS_$*),test); do \
	        molecule $$command --scenario-name $(or $(SCENARIO_$*),$*) || exit 1; \
	    done; \
	    $(if $(filter security preflight,$*),python -m lab destroy || exit 1;) \
	    } 2>&1 | sed --unbuffered "s/^/$* | /" | tee .cache/$@.log && rm .cache/$@.log || { \
	    $(FAILURES) .cache/$@.log | tail -n 50; exit 1; }

# As it is: a name may have an apostrophe.
prove: export BREAKS := $(BREAKS)
prove: .venv/ready  ## break a converged lab on purpose, once per theme of lab/breaks/, in every way with BREAKS=all: the checks have to notice
	LAB=prove python -m lab.prove "$$BREAKS"

lock: .venv/ready  ## renew the hash-pinned files in requirements/ from the ranges in pyproject.toml
	for group in uv controller build main edge dags-test audit; do \
	    uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	        --custom-compile-command 'make lock' --group pyproject.toml:$$group --output-file requirements/$$group.txt; \
	done

audit: .venv-audit/ready  ## known vulnerabilities in what hosts install, and what that is, as .cache/sbom-main.json and sbom-edge.json (CycloneDX)
	@mkdir -p .cache; for group in main edge; do \
	    .venv-audit/bin/cyclonedx-py requirements --output-file .cache/sbom-$$group.json requirements/$$group.txt || exit 1; \
	done
	@# Strict: a package that the index does not tell about has not been found to be safe.
	@for group in build main edge; do echo "requirements/$$group.txt:"; \
	    .venv-audit/bin/pip-audit --strict --progress-spinner off --disable-pip --require-hashes -r requirements/$$group.txt || failed=1; \
	done; exit $${failed:-0}

stop: .venv/ready  ## shut the demo's hosts down; `make demo` boots them again
	python -m lab stop

clean:  ## remove the labs: hosts, disks, images, namespaces, NAT rules
	for lab in $(filter-out images snapshots,$(notdir $(wildcard .lab/*))); do LAB=$$lab $(PYTHON) -m lab destroy || exit 1; done
	$(SUDO) rm -rf .lab

distclean: clean  ## remove the virtualenvs and caches, too
	rm -rf .venv .venv-audit .venv-dags .cache .ansible .molecule

# A virtualenv is complete when its mark is newer than its lock.
.venv/ready: requirements/uv.txt requirements/controller.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "This needs Python 3.11 or newer; set PYTHON=")'
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "Installing python3-venv"; \
	    $(SUDO) apt-get update -qq && $(SUDO) apt-get install -qq -o DPkg::Lock::Timeout=600 --no-install-recommends python3-venv >/dev/null; }
	@echo "Making .venv with the controller's tools"
	@$(PYTHON) -m venv --clear .venv
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@.venv/bin/uv pip sync --quiet --python .venv --require-hashes requirements/controller.txt
	@touch $@

# A browser for the tests of the UI. In `make test` while the site is installed, but not while the lab installs packages, too.
/usr/bin/chromedriver: | $(or $(filter lint test-units,$(MAKECMDGOALS)),$(filter molecule-site,$(MAKECMDGOALS)))
	@echo "Installing chromium-driver"
	@$(SUDO) apt-get update -qq
	@$(SUDO) DEBIAN_FRONTEND=noninteractive apt-get install -qq -o DPkg::Lock::Timeout=600 --no-install-recommends chromium-driver >/dev/null

.venv-audit/ready: .venv/ready requirements/audit.txt
	@echo "Making .venv-audit, with the tools of make audit"
	@uv venv --quiet --clear --python $(PYTHON) .venv-audit
	@uv pip sync --quiet --python .venv-audit --require-hashes requirements/audit.txt
	@touch $@

.venv-dags/ready: .venv/ready requirements/dags-test.txt
	@echo "Making .venv-dags, the environment of an edge host"
	@uv venv --quiet --clear --python $(PYTHON) .venv-dags
	@uv pip sync --quiet --python .venv-dags --require-hashes requirements/dags-test.txt
	@touch $@
