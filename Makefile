# The commands of this repository. `make demo` and `make test` need nothing but Rust and, where
# PostgreSQL is missing, apt: they install Debian's package themselves.

CARGO ?= cargo
# Handed on to `pgweir demo`: make demo DEMO_ARGS=--stay
DEMO_ARGS ?=
# Handed on to the comparison: make bench-compare COMPARE_ARGS="--only simple,prepared --rounds 5"
COMPARE_ARGS ?=
# Handed on to the compatibility suites.
COMPAT_ARGS ?=

.PHONY: demo test check fmt lint doc bench bench-compare compat postgresql

demo: postgresql
	$(CARGO) run --release --locked -- demo $(DEMO_ARGS)

# Unit and integration tests, then the examples in the documentation. The benches are compiled by
# `lint`; running them takes minutes and belongs to `bench`.
test: postgresql
	$(CARGO) test --locked --lib --bins --tests
	$(CARGO) test --locked --doc

# All that the continuous integration asks for.
check: fmt lint test doc

fmt:
	$(CARGO) fmt --check

lint:
	$(CARGO) clippy --locked --all-targets -- -D warnings

doc:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps

bench: postgresql
	$(CARGO) bench --locked

# pgweir beside PgBouncer and beside no proxy, about five minutes. Debian's pgbouncer takes part where it
# is installed (its service need not run), another one by COMPARE_ARGS="--pgbouncer PATH".
bench-compare: postgresql
	$(CARGO) bench --locked --bench compare -- $(COMPARE_ARGS)

# Other projects' test suites through pgweir and directly, some 40 minutes: see tests/compat/README.md. Needs Python 3.11,
# node and npm, their registries, and Debian's archive. COMPAT_ARGS="--suite asyncpg" runs one.
compat: postgresql
	$(CARGO) build --release --locked
	python3 tests/compat/run.py $(COMPAT_ARGS)

# Servers are looked for where the sandbox looks: the initdb on PATH, pg_config --bindir, Debian's place.
postgresql:
	@command -v initdb >/dev/null 2>&1 \
	    || { command -v pg_config >/dev/null 2>&1 && [ -x "$$(pg_config --bindir)/initdb" ]; } \
	    || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 \
	    || $(MAKE) --no-print-directory install-postgresql

# Debian's package would also make a cluster of its own and start it on port 5432. Nobody here needs
# that, so it is told not to for as long as the installation lasts.
.PHONY: install-postgresql
install-postgresql: no_cluster = /etc/postgresql-common/createcluster.d/pgweir-no-main-cluster.conf
install-postgresql:
	@command -v apt-get >/dev/null 2>&1 || { \
	    echo "PostgreSQL's server programs (initdb, postgres, psql, pgbench) are missing, and there is no" >&2; \
	    echo "apt-get to install them with. Install PostgreSQL 14 or later and put its initdb on PATH." >&2; \
	    exit 1; }
	@[ "$$(id -u)" = 0 ] || command -v sudo >/dev/null 2>&1 || { \
	    echo "PostgreSQL's server programs are missing, and installing them needs root or sudo." >&2; \
	    echo "As root: apt-get install postgresql" >&2; \
	    exit 1; }
	@set -e; \
	    if [ "$$(id -u)" = 0 ]; then sudo=; else sudo=sudo; fi; \
	    apt="$$sudo env DEBIAN_FRONTEND=noninteractive apt-get -y --no-install-recommends"; \
	    echo "Installing Debian's postgresql package"; \
	    $$apt update; \
	    $$apt install postgresql-common; \
	    $$sudo mkdir -p $(dir $(no_cluster)); \
	    echo "create_main_cluster = false" | $$sudo tee $(no_cluster) >/dev/null; \
	    trap "$$sudo rm -f $(no_cluster)" EXIT; \
	    $$apt install postgresql
