/* Containers' commands by name, for the tables of `strata` itself and of `strata container`. */
#pragma once

#include "container_cli.h"

#define CONTAINER_ONE  "[OPTION...] CONTAINER"
#define CONTAINER_MANY "[OPTION...] CONTAINER..."
#define CONTAINER_RUN  "[OPTION...] IMAGE [COMMAND...]"

/* In the order of a container's life. */
#define CONTAINER_COMMANDS                                                                                          \
        { "run", CONTAINER_RUN, "make a container of an image and run a command in it", container_run_command, NULL },    \
                { "create", CONTAINER_RUN, "make one without starting it", container_create_command, NULL },              \
                { "start", CONTAINER_MANY, "start some that do not run", container_start_command, NULL },                 \
                { "exec", "[OPTION...] CONTAINER COMMAND...", "run one more process in one", container_exec_command, NULL }, \
                { "attach", CONTAINER_ONE, "connect to one that runs", container_attach_command, NULL },                  \
                { "logs", CONTAINER_ONE, "what it wrote", container_logs_command, NULL },                                 \
                { "cp", "[OPTION...] FROM TO", "copy files out of one or in", container_cp_command, NULL },               \
                { "stats", "[OPTION...] [CONTAINER...]", "what they use", container_stats_command, NULL },                \
                { "top", CONTAINER_ONE, "the processes of one", container_top_command, NULL },                            \
                { "port", "CONTAINER [PORT]", "which ports of the host are its", container_port_command, NULL },          \
                { "diff", "CONTAINER", "which files it changed", container_diff_command, NULL },                          \
                { "commit", CONTAINER_ONE " [IMAGE]", "make an image of what it changed", container_commit_command, NULL }, \
                { "export", CONTAINER_ONE, "all its files as an archive", container_export_command, NULL },               \
                { "pause", "CONTAINER...", "stop their clocks", container_pause_command, NULL },                          \
                { "unpause", "CONTAINER...", "let them go on", container_unpause_command, NULL },                         \
                { "update", CONTAINER_MANY, "change what they may use", container_update_command, NULL },                 \
                { "rename", "CONTAINER NAME", "give one another name", container_rename_command, NULL },                  \
                { "stop", CONTAINER_MANY, "ask them to end", container_stop_command, NULL },                              \
                { "restart", CONTAINER_MANY, "stop them and start them again", container_restart_command, NULL },         \
                { "kill", CONTAINER_MANY, "send them a signal", container_kill_command, NULL },                           \
                { "wait", "CONTAINER...", "until they have ended", container_wait_command, NULL },                        \
                { "rm", CONTAINER_MANY, "remove them", container_rm_command, NULL }
