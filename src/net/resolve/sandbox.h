/* What the resolver may still do once it listens to strangers: read files, and talk on sockets. */
#pragma once

/* -errno. */
int sandbox_enter(void);
