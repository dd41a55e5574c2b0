# Builds SQLite's test programs with Verneuil's loader (loader.c) and test hooks (hookvfs.c); read by make in a configured
# build directory, whose own Makefile says what they consist of. Called by build.sh; file by file, so that two can be compiled at a time.
#
#   make -f programs.mk SUITE=(this folder) OPTS="…" suite-testfixture suite-tools

include Makefile

# Not a target of SQLite's.
.DEFAULT_GOAL := suite-testfixture

FIXTURE_OBJECTS = $(addprefix objects/,$(notdir $(TESTFIXTURE_SRC:.c=.o)))
FIXTURE_FLAGS = -w -DSQLITE_EXTRA_INIT=suite_init -DSQLITE_NO_SYNC=1 $(TEMP_STORE) $(TESTFIXTURE_FLAGS)

# The largest file first: it takes as long as half of the others.
suite-testfixture: has_tclsh85 objects/sqlite3.o $(FIXTURE_OBJECTS) objects/hookvfs.o objects/fixture-loader.o
	$(CC) $(CFLAGS) -rdynamic -o $@ $(FIXTURE_OBJECTS) objects/hookvfs.o objects/fixture-loader.o $(LIBTCL) $(TLIBS)

vpath %.c $(sort $(dir $(filter $(TOP)/%,$(TESTFIXTURE_SRC))))
objects/%.o: %.c sqlite3.c sqlite3.h parse.h opcodes.h keywordhash.h | objects
	$(TCC) $(FIXTURE_FLAGS) -c $< -o $@
objects/hookvfs.o: $(SUITE)/hookvfs.c $(SUITE)/suite.h sqlite3.h | objects
	$(TCC) -Wall -Wextra -c $< -o $@
objects/fixture-loader.o: $(SUITE)/loader.c $(SUITE)/suite.h sqlite3.h | objects
	$(TCC) -Wall -Wextra -DSUITE_HOOKS -c $< -o $@

# The programs that are no Tcl scripts share one library and have no hooks.
TOOLS = suite-mptester suite-threadtest3 suite-speedtest1
suite-tools: $(TOOLS)
TOOL_OBJECTS = objects/tool-sqlite3.o objects/tool-loader.o
TOOL_LINK = $(CC) $(CFLAGS) -rdynamic -w -I. -I$(TOP)/src -I$(TOP)/test -D_HAVE_SQLITE_CONFIG_H

objects/tool-sqlite3.o: sqlite3.c | objects
	$(TCC) -w -O2 -DSQLITE_EXTRA_INIT=suite_init -c $< -o $@
objects/tool-loader.o: $(SUITE)/loader.c $(SUITE)/suite.h sqlite3.h | objects
	$(TCC) -Wall -Wextra -c $< -o $@
suite-mptester: $(TOOL_OBJECTS)
	$(TOOL_LINK) -o $@ $(TOP)/mptest/mptest.c $^ $(TLIBS)
suite-threadtest3: $(TOOL_OBJECTS)
	$(TOOL_LINK) -o $@ $(TOP)/test/threadtest3.c $(TOP)/src/test_multiplex.c $^ $(TLIBS)
suite-speedtest1: $(TOOL_OBJECTS)
	$(TOOL_LINK) -O2 -o $@ $(TOP)/test/speedtest1.c $^ $(TLIBS)

objects:
	mkdir -p objects
