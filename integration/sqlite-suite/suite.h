/* What loader.c and hookvfs.c know of each other. */
#ifndef VERNEUIL_SUITE_H
#define VERNEUIL_SUITE_H

/* The SQLITE_EXTRA_INIT of every program of the suite (loader.c). */
int suite_init(const char *unused);

/* Puts the test hooks on top of the VFS that is the default now (hookvfs.c; testfixture only). */
int suite_hooks_install(void);

#endif
