/* The main thread of strata-vmm while a machine runs: signals, the terminal's keys, and the end. */
#pragma once

#include <signal.h>

#include "vm.h"

/* Blocks the signals that control_run takes care of; before any thread exists. @for_guest: these are the main process's (agent.h), all
 * that this process does not need for itself. */
void control_block_signals(bool for_guest, sigset_t *ret_set);

/* Serves signals and standard input (if @use_stdin) until the machine has ended. Counters asked for by a signal or
 * key go to @stats, or standard error if that is NULL. */
int control_run(struct vm *vm, const sigset_t *signals, bool use_stdin, FILE *stats, struct err **err);
