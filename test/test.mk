# Targets around the extension; the rules that build it are in the Makefile.
#
# test/run/* do the work, so that each can be called alone and none needs make.

REGRESS = install $(filter-out install,$(patsubst sql/%.sql,%,$(sort $(wildcard sql/*.sql))))
REGRESS_OPTS = --inputdir=.

# These build in a copy of the tree and install what is missing first, so they
# need neither PGXS nor a server here; PGXS has a rule of its own for check.
OWN_GOALS = help check check-valgrind check-sanitize check-versions soak lint format bench demo demo-stop

ifneq ($(filter $(OWN_GOALS),$(MAKECMDGOALS)),)
.PHONY: $(OWN_GOALS)

help:
	@echo 'make, make install      build and install for the server of PG_CONFIG (WERROR=1: warnings are errors)'
	@echo 'make demo, demo-stop    the tour on real data, with a private server and broker'
	@echo 'make check              every test; TEST=name runs one suite or one test'
	@echo 'make installcheck       the regression tests against a server that runs'
	@echo 'make check-valgrind     the regression tests with the server under valgrind'
	@echo 'make check-sanitize     every test, with C built to end at undefined behaviour'
	@echo 'make check-versions     the same and more on PostgreSQL 16, 17 and 18; VERSION=17 alone'
	@echo 'make soak               the same as check with many more rounds (hours)'
	@echo 'make bench              speed next to a plain COPY and a consumer written by hand (BENCH=--full: 20 million events)'
	@echo 'make lint, make format  what a reviewer would say first; the formatter'

check:
	@test/run/check $(TEST)

check-valgrind:
	@test/run/check --valgrind $(TEST)

check-sanitize:
	@test/run/check --sanitize $(TEST)

check-versions:
	@test/run/versions $(VERSION)

soak:
	@test/run/check --soak $(TEST)

lint:
	@test/run/lint

format:
	@test/run/format

bench:
	@test/bench/bench $(BENCH)

demo:
	@test/demo/demo

demo-stop:
	@test/demo/demo --stop
endif
