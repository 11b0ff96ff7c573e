/* The texts of a container's /etc/hosts and /etc/resolv.conf. */
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "internal.h"

enum { RESOLV_CONF_MAX = 64 * 1024, SERVERS_MAX = 3 }; /* as resolv.conf(5) says */

#define SYSTEMD_FILE "/run/systemd/resolve/resolv.conf" /* what systemd-resolved itself asks */

struct text {
        char *data;
        size_t len;
        FILE *file;
};

static int text_open(struct text *text, struct err **err)
{
        text->file = open_memstream(&text->data, &text->len);
        return text->file ? 0 : err_sys(err, ENOMEM, "writing a file for the container");
}

static int text_close(struct text *text, char **ret, struct err **err)
{
        if (fclose(text->file) != 0) {
                free(text->data);
                return err_sys(err, ENOMEM, "writing a file for the container");
        }
        *ret = text->data;
        return 0;
}

/* --- hosts -------------------------------------------------------------------------------------------------------- */

static const char *host_gateway(const struct net_hosts *hosts)
{
        for (size_t i = 0; i < hosts->n_attachments; i++)
                if (*hosts->attachments[i]->gateway)
                        return hosts->attachments[i]->gateway;
        return "127.0.0.1"; /* the host's own network */
}

static int print_extra(FILE *file, const struct net_hosts *hosts, const char *extra, struct err **err)
{
        const char *colon = strchr(extra, ':'), *address = colon ? colon + 1 : "";
        char clean[INET6_ADDRSTRLEN + 2];
        struct ip ip;
        size_t n;

        if (strcmp(address, "host-gateway") == 0)
                address = host_gateway(hosts);
        n = strlen(address);
        if (*address == '[' && n > 2 && n < sizeof(clean) && address[n - 1] == ']') {
                snprintf(clean, sizeof(clean), "%.*s", (int)n - 2, address + 1);
                address = clean;
        }
        if (!colon || colon == extra || strcspn(extra, " \t\r\n#") < (size_t)(colon - extra) ||
                ip_parse(address, &ip) < 0)
                return err_set(err, ERR_USAGE, EINVAL, "'%s' is no 'name:address' for the hosts file", extra);
        fprintf(file, "%s\t%.*s\n", address, (int)(colon - extra), extra);
        return 0;
}

static int print_hosts(FILE *file, const struct net_hosts *hosts, struct err **err)
{
        int r = 0;

        fputs("127.0.0.1\tlocalhost\n"
              "::1\tlocalhost ip6-localhost ip6-loopback\n"
              "fe00::\tip6-localnet\n"
              "ff00::\tip6-mcastprefix\n"
              "ff02::1\tip6-allnodes\n"
              "ff02::2\tip6-allrouters\n",
                file);
        for (const char *const *extra = hosts->extra; extra && *extra && r == 0; extra++)
                r = print_extra(file, hosts, *extra, err);
        for (size_t i = 0; hosts->hostname && i < hosts->n_attachments; i++)
                for (int f = 0; f < 2; f++) {
                        const char *ip = f ? hosts->attachments[i]->ip6 : hosts->attachments[i]->ip;

                        if (!*ip)
                                continue;
                        fprintf(file, "%s\t", ip);
                        if (hosts->domainname && *hosts->domainname)
                                fprintf(file, "%s.%s ", hosts->hostname, hosts->domainname);
                        fprintf(file, "%s\n", hosts->hostname);
                }
        return r;
}

int net_hosts_text(const struct net_hosts *hosts, char **ret, struct err **err)
{
        struct text text;
        char *made = NULL;
        int r;

        if (hosts->hostname && hosts->hostname[strcspn(hosts->hostname, " \t\r\n#")])
                return err_set(err, ERR_USAGE, EINVAL, "'%s' is no name for a host", hosts->hostname);
        r = text_open(&text, err);
        if (r < 0)
                return r;
        r = print_hosts(text.file, hosts, err);
        if (r < 0) {
                text_close(&text, &made, NULL);
                free(made);
                return r;
        }
        return text_close(&text, ret, err);
}

/* --- resolv.conf -------------------------------------------------------------------------------------------------- */

struct host_resolv {
        char *data;
        const char *search, *options; /* the last line of each counts, resolv.conf(5) */
        const char *servers[SERVERS_MAX];
        size_t n_servers, n_loopback;
};

static void host_resolv_clear(struct host_resolv *host)
{
        free(host->data);
}

static void take_line(struct host_resolv *host, char *line, bool keep_loopback)
{
        char *word = line + strspn(line, " \t"), *rest = word + strcspn(word, " \t");
        struct ip ip;

        if (!*rest)
                return;
        *rest++ = '\0';
        rest += strspn(rest, " \t");
        if (strcmp(word, "search") == 0 || strcmp(word, "domain") == 0) {
                host->search = rest;
        } else if (strcmp(word, "options") == 0) {
                host->options = rest;
        } else if (strcmp(word, "nameserver") == 0 && host->n_servers < SERVERS_MAX) {
                rest[strcspn(rest, " \t")] = '\0';
                if (ip_parse(rest, &ip) < 0)
                        return;
                if (ip_is_loopback(&ip) && !keep_loopback)
                        host->n_loopback++;
                else
                        host->servers[host->n_servers++] = rest;
        }
}

/* A host without the file has no names. */
static int read_host(const char *path, bool keep_loopback, struct host_resolv *ret, struct err **err)
{
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        struct host_resolv host = { .data = calloc(1, RESOLV_CONF_MAX + 1) };
        char *rest = host.data, *line;
        ssize_t n;

        if (!host.data)
                return err_sys(err, ENOMEM, "reading '%s'", path);
        n = fd < 0 ? 0 : read(fd, host.data, RESOLV_CONF_MAX);
        if (n < 0) {
                free(host.data);
                return err_sys(err, errno, "reading '%s'", path);
        }
        while ((line = strsep(&rest, "\n")))
                if (*line != '#' && *line != ';')
                        take_line(&host, line, keep_loopback);
        *ret = host;
        return 0;
}

static void print_list(FILE *file, const char *word, const char *const *given, const char *host)
{
        if (given && *given) {
                fputs(word, file);
                for (; *given; given++)
                        fprintf(file, " %s", *given);
                fputc('\n', file);
        } else if (host && *host) {
                fprintf(file, "%s %s\n", word, host);
        }
}

static int check_words(const char *const *words, bool addresses, struct err **err)
{
        struct ip ip;

        for (; words && *words; words++)
                if (!**words || (*words)[strcspn(*words, " \t\r\n")] || (addresses && ip_parse(*words, &ip) < 0))
                        return err_set(err, ERR_USAGE, EINVAL, "'%s' cannot be in resolv.conf", *words);
        return 0;
}

int net_resolv_text(const struct net_resolv *resolv, char **ret, struct err **err)
{
        _cleanup_(host_resolv_clear) struct host_resolv host = { .data = NULL };
        const char *resolver = NULL;
        struct text text;
        int r;

        r = check_words(resolv->servers, true, err);
        if (r == 0)
                r = check_words(resolv->search, false, err);
        if (r == 0)
                r = check_words(resolv->options, false, err);
        if (r == 0) /* who has the host's network reaches its loopback */
                r = read_host(resolv->host_file ? resolv->host_file : "/etc/resolv.conf", resolv->n_attachments == 0,
                        &host, err);
        if (r == 0 && !host.n_servers && host.n_loopback && !resolv->host_file) {
                host_resolv_clear(&host);
                r = read_host(SYSTEMD_FILE, false, &host, err);
        }
        if (r == 0)
                r = text_open(&text, err);
        if (r < 0)
                return r;
        for (size_t i = 0; i < resolv->n_attachments && !resolver; i++)
                resolver = *resolv->attachments[i]->dns ? resolv->attachments[i]->dns : NULL;
        print_list(text.file, "search", resolv->search, host.search);
        if (resolver)
                fprintf(text.file, "nameserver %s\n", resolver);
        for (const char *const *s = resolv->servers; !resolver && s && *s; s++)
                fprintf(text.file, "nameserver %s\n", *s);
        for (size_t i = 0; !resolver && !(resolv->servers && *resolv->servers) && i < host.n_servers; i++)
                fprintf(text.file, "nameserver %s\n", host.servers[i]);
        print_list(text.file, "options", resolv->options, host.options);
        return text_close(&text, ret, err);
}
