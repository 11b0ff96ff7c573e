/* What users and containers write: ports, subnets, addresses, names, questions. */
#include <errno.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "net/addr.h"
#include "net/net.h"
#include "net/resolve/dns.h"

/* --- ports -------------------------------------------------------------------------------------------------------- */

static void ports_are_read_as_docker_reads_them(void **state)
{
        static const struct {
                const char *text, *ip;
                u8 protocol;
                u16 host_first, host_last, first, last;
        } cases[] = {
                { "80", NULL, IPPROTO_TCP, 0, 0, 80, 80 },
                { "80/udp", NULL, IPPROTO_UDP, 0, 0, 80, 80 },
                { "8080:80", NULL, IPPROTO_TCP, 8080, 8080, 80, 80 },
                { "8080:80/sctp", NULL, IPPROTO_SCTP, 8080, 8080, 80, 80 },
                { "127.0.0.1:8080:80", "127.0.0.1", IPPROTO_TCP, 8080, 8080, 80, 80 },
                { "127.0.0.1::80", "127.0.0.1", IPPROTO_TCP, 0, 0, 80, 80 },
                { "[::1]:8080:80", "::1", IPPROTO_TCP, 8080, 8080, 80, 80 },
                { "8000-8010:9000-9010", NULL, IPPROTO_TCP, 8000, 8010, 9000, 9010 },
                { "8000-8010:80", NULL, IPPROTO_TCP, 8000, 8010, 80, 80 },
                { "80-82", NULL, IPPROTO_TCP, 0, 0, 80, 82 },
                { ":80", NULL, IPPROTO_TCP, 0, 0, 80, 80 },
                { "65535:1", NULL, IPPROTO_TCP, 65535, 65535, 1, 1 },
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                struct net_ports ports = { 0 };
                const struct net_port *p;

                print_message("%s\n", cases[i].text);
                assert_int_equal(net_port_parse(cases[i].text, &ports, NULL), 0);
                assert_int_equal(ports.n, 1);
                p = &ports.item[0];
                if (cases[i].ip)
                        assert_string_equal(p->host_ip, cases[i].ip);
                else
                        assert_null(p->host_ip);
                assert_int_equal(p->protocol, cases[i].protocol);
                assert_int_equal(p->host_first, cases[i].host_first);
                assert_int_equal(p->host_last, cases[i].host_last);
                assert_int_equal(p->container_first, cases[i].first);
                assert_int_equal(p->container_last, cases[i].last);
                net_ports_clear(&ports);
        }
}

static void bad_ports_are_refused_with_an_error(void **state)
{
        static const char *const bad[] = { "", ":", "0", "80:0", "65536", "80:65536", "http", "80/", "80/icmp", "-80",
                "80-", "82-80", "1-3:1-4", "300.0.0.1:1:1", "127.0.0.1:80", "[::1:80:80", "[::1]80:80", "::1:80:80",
                "1:2:3", "80:80:80:80", "8 0", "+80", "80:80 ", "1-65535", "0x50", "80//tcp",
                "99999999999999999999:1" };

        for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
                struct net_ports ports = { 0 };
                struct err *err = NULL;

                print_message("'%s'\n", bad[i]);
                assert_true(net_port_parse(bad[i], &ports, &err) < 0);
                assert_non_null(err);
                assert_int_equal(ports.n, 0);
                err_free(err);
                net_ports_clear(&ports);
        }
}

/* --- addresses ---------------------------------------------------------------------------------------------------- */

static struct cidr cidr(const char *text)
{
        struct cidr c;

        assert_int_equal(cidr_parse(text, &c), 0);
        return c;
}

static struct ip ip(const char *text)
{
        struct ip i;

        assert_int_equal(ip_parse(text, &i), 0);
        return i;
}

static void subnets_know_what_is_in_them(void **state)
{
        static const char *const bad[] = { "", "10.0.0.0", "10.0.0.0/", "10.0.0.0/33", "10.0.0.1/24", "fd00::/129",
                "fd00::1/64", "/24", "10.0.0.0/2 4", "10.0.0.0/-1", "10.0.0.0/24x", "10.0.0/24" };
        const struct cidr a = cidr("10.1.0.0/16"), b = cidr("10.1.2.0/24"), c = cidr("10.2.0.0/16"),
                          v6 = cidr("fd00:1::/64");
        struct cidr out;

        for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
                assert_int_equal(cidr_parse(bad[i], &out), -EINVAL);
        assert_true(cidr_contains(&a, &(struct ip){ 4, { 10, 1, 255, 255 } }));
        assert_false(cidr_contains(&a, &(struct ip){ 4, { 10, 2, 0, 0 } }));
        assert_false(cidr_contains(&a, &v6.ip));
        assert_true(cidr_overlaps(&a, &b));
        assert_true(cidr_overlaps(&b, &a));
        assert_false(cidr_overlaps(&a, &c));
        assert_false(cidr_overlaps(&a, &v6));
        assert_int_equal(cidr_size(&b), 256);
        assert_true(cidr_is_broadcast(&b, &(struct ip){ 4, { 10, 1, 2, 255 } }));
}

static void addresses_count_over_bytes(void **state)
{
        struct ip i = ip("10.0.0.255");

        i = ip_plus(&i, 1);
        assert_string_equal(ip_format(&i).text, "10.0.1.0");
        i = ip("fd00::ffff");
        i = ip_plus(&i, 2);
        assert_string_equal(ip_format(&i).text, "fd00::1:1");
        i = ip("255.255.255.255");
        i = ip_plus(&i, 1);
        assert_string_equal(ip_format(&i).text, "0.0.0.0");
}

static void group_addresses_are_no_cards(void **state)
{
        u8 mac[6];

        assert_int_equal(mac_parse("02:42:ac:11:00:02", mac), 0);
        assert_string_equal(mac_format(mac).text, "02:42:ac:11:00:02");
        assert_int_equal(mac_parse("01:42:ac:11:00:02", mac), -EINVAL);
        assert_int_equal(mac_parse("02:42:ac:11:00", mac), -EINVAL);
        assert_int_equal(mac_parse("02:42:ac:11:00:02:03", mac), -EINVAL);
        assert_int_equal(mac_parse("02:42:ac:11:00:zz", mac), -EINVAL);
}

/* --- questions ---------------------------------------------------------------------------------------------------- */

#define HEAD "\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00"

static int parse(const char *bytes, size_t len, struct dns_question *question)
{
        /* of exactly that size, so that a sanitizer sees what is read behind it */
        u8 *copy = malloc(len + 1);
        int r;

        memcpy(copy, bytes, len);
        r = dns_parse_query(copy, len, question);
        free(copy);
        return r;
}
#define PARSE(bytes, question) parse(bytes, sizeof(bytes) - 1, question)

static void questions_are_read(void **state)
{
        struct dns_question q;

        assert_int_equal(PARSE(HEAD "\x02"
                                    "Db\x05local\x00\x00\x01\x00\x01",
                                 &q),
                0);
        assert_string_equal(q.name, "db.local");
        assert_true(q.is_plain);
        assert_int_equal(q.type, DNS_A);
        assert_int_equal(PARSE(HEAD "\x00\x00\x02\x00\x01", &q), 0);
        assert_string_equal(q.name, "");
        assert_false(q.is_plain);
}

static void names_that_are_no_file_names_are_not_plain(void **state)
{
        struct dns_question q;

        assert_int_equal(PARSE(HEAD "\x04"
                                    "../x\x00\x00\x01\x00\x01",
                                 &q),
                0);
        assert_false(q.is_plain);
        assert_int_equal(PARSE(HEAD "\x01.\x01.\x00\x00\x01\x00\x01", &q), 0);
        assert_false(q.is_plain);
        assert_int_equal(PARSE(HEAD "\x03"
                                    "a\x00"
                                    "b\x00\x00\x01\x00\x01",
                                 &q),
                0);
        assert_false(q.is_plain);
}

static void broken_questions_are_refused(void **state)
{
        struct dns_question q;

        assert_int_equal(PARSE("\x12\x34", &q), -EBADMSG);
        assert_int_equal(PARSE("\x12\x34\x81\x00\x00\x01\x00\x00\x00\x00\x00\x00", &q), -EBADMSG); /* an answer */
        assert_int_equal(PARSE("\x12\x34\x28\x00\x00\x01\x00\x00\x00\x00\x00\x00", &q), -ENOSYS);  /* an update */
        assert_int_equal(PARSE(HEAD, &q), -EINVAL);
        assert_int_equal(PARSE(HEAD "\x05"
                                    "ab",
                                 &q),
                -EINVAL);
        assert_int_equal(PARSE(HEAD "\x02"
                                    "ab\x00\x00\x01",
                                 &q),
                -EINVAL);
        assert_int_equal(PARSE(HEAD "\xc0\x0c\x00\x01\x00\x01", &q), -EINVAL); /* a pointer to itself */
        assert_int_equal(PARSE("\x12\x34\x01\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x01", &q), -EINVAL);
}

static void long_answers_are_cut(void **state)
{
        static const u8 query[] = HEAD "\x01"
                                       "a\x00\x00\x01\x00\x01";
        struct ip addresses[64];
        struct dns_question q;
        u8 out[512];
        size_t n;

        for (u8 i = 0; i < 64; i++)
                addresses[i] = (struct ip){ 4, { 10, 0, 0, i } };
        assert_int_equal(dns_parse_query(query, sizeof(query) - 1, &q), 0);
        n = dns_write_answer(query, &q, &(struct dns_answer){ .addresses = addresses, .n = 3 }, out, sizeof(out));
        assert_int_equal(n, sizeof(query) - 1 + 3 * 16);
        assert_int_equal(dns_get16(out + 6), 3);
        assert_false(out[2] & 2);
        assert_true(dns_is_reply(out, n, query, &q));
        n = dns_write_answer(query, &q, &(struct dns_answer){ .addresses = addresses, .n = 64 }, out, sizeof(out));
        assert_true(n <= sizeof(out));
        assert_true(out[2] & 2);
}

static void a_reply_must_be_to_the_question(void **state)
{
        static const u8 query[] = HEAD "\x01"
                                       "a\x00\x00\x01\x00\x01";
        u8 reply[sizeof(query) - 1];
        struct dns_question q;

        memcpy(reply, query, sizeof(reply));
        assert_int_equal(dns_parse_query(query, sizeof(query) - 1, &q), 0);
        assert_false(dns_is_reply(reply, sizeof(reply), query, &q)); /* it is the query */
        reply[2] |= 0x80;
        assert_true(dns_is_reply(reply, sizeof(reply), query, &q));
        reply[13] = 'A';
        assert_true(dns_is_reply(reply, sizeof(reply), query, &q));
        reply[13] = 'b';
        assert_false(dns_is_reply(reply, sizeof(reply), query, &q));
        reply[13] = 'a';
        reply[1] ^= 1;
        assert_false(dns_is_reply(reply, sizeof(reply), query, &q));
        reply[1] ^= 1;
        assert_false(dns_is_reply(reply, sizeof(reply) - 1, query, &q));
}

static void reverse_names_are_addresses(void **state)
{
        struct ip i;

        assert_int_equal(dns_reverse("4.3.2.10.in-addr.arpa", &i), 0);
        assert_string_equal(ip_format(&i).text, "10.2.3.4");
        assert_int_equal(
                dns_reverse("1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa", &i), 0);
        assert_string_equal(ip_format(&i).text, "fd00::1");
        assert_int_equal(dns_reverse("4.3.2.in-addr.arpa", &i), -EINVAL);
        assert_int_equal(dns_reverse("4.3.2.256.in-addr.arpa", &i), -EINVAL);
        assert_int_equal(dns_reverse("1.ip6.arpa", &i), -EINVAL);
        assert_int_equal(dns_reverse("", &i), -EINVAL);
}

/* --- files of the container --------------------------------------------------------------------------------------- */

static void hosts_has_every_address_of_the_container(void **state)
{
        const struct net_attachment a = {
                .ip = "10.0.0.2", .ip6 = "fd00::2", .gateway = "10.0.0.1", .gateway6 = "", .dns = ""
        };
        const struct net_attachment *const list[] = { &a };
        const char *const extra[] = { "db:192.0.2.7", "host.docker.internal:host-gateway", "six:[fd00::9]", NULL };
        const char *const bad[] = { "db", NULL };
        char *text = NULL;

        assert_int_equal(net_hosts_text(&(struct net_hosts){ .hostname = "web",
                                                .domainname = "lan",
                                                .attachments = list,
                                                .n_attachments = 1,
                                                .extra = extra },
                                 &text, NULL),
                0);
        assert_non_null(strstr(text, "127.0.0.1\tlocalhost\n"));
        assert_non_null(strstr(text, "10.0.0.2\tweb.lan web\n"));
        assert_non_null(strstr(text, "fd00::2\tweb.lan web\n"));
        assert_non_null(strstr(text, "192.0.2.7\tdb\n"));
        assert_non_null(strstr(text, "10.0.0.1\thost.docker.internal\n"));
        assert_non_null(strstr(text, "fd00::9\tsix\n"));
        free(text);
        assert_int_equal(net_hosts_text(&(struct net_hosts){ .extra = bad }, &text, NULL), -EINVAL);
        assert_int_equal(net_hosts_text(&(struct net_hosts){ .hostname = "a\n1.2.3.4 evil" }, &text, NULL), -EINVAL);
}

static void resolv_conf_names_the_resolver_or_the_hosts_servers(void **state)
{
        const struct net_attachment plain = { .ip = "10.0.0.2", .ip6 = "", .dns = "" },
                                    named = { .ip = "", .ip6 = "", .dns = "127.0.0.11" };
        const struct net_attachment *const one[] = { &plain }, *const two[] = { &plain, &named };
        const char *const servers[] = { "9.9.9.9", NULL }, *const search[] = { "a.example", "b.example", NULL },
                          *const bad[] = { "9.9.9", NULL };
        char path[] = "/tmp/resolv.XXXXXX", *text = NULL;
        FILE *f = fdopen(mkstemp(path), "w");

        fputs("# comment\nnameserver 127.0.0.53\nnameserver\t192.0.2.53\nsearch old\nsearch lan\noptions ndots:2\n", f);
        fclose(f);
        assert_int_equal(
                net_resolv_text(
                        &(struct net_resolv){ .attachments = one, .n_attachments = 1, .host_file = path }, &text, NULL),
                0);
        assert_string_equal(text, "search lan\nnameserver 192.0.2.53\noptions ndots:2\n");
        free(text);
        assert_int_equal(
                net_resolv_text(&(struct net_resolv){ .host_file = path }, &text, NULL), 0); /* the host's network */
        assert_non_null(strstr(text, "nameserver 127.0.0.53\n"));
        free(text);
        assert_int_equal(net_resolv_text(&(struct net_resolv){ .attachments = one,
                                                 .n_attachments = 1,
                                                 .host_file = path,
                                                 .servers = servers,
                                                 .search = search },
                                 &text, NULL),
                0);
        assert_string_equal(text, "search a.example b.example\nnameserver 9.9.9.9\noptions ndots:2\n");
        free(text);
        assert_int_equal(
                net_resolv_text(
                        &(struct net_resolv){
                                .attachments = two, .n_attachments = 2, .host_file = path, .servers = servers },
                        &text, NULL),
                0);
        assert_string_equal(text, "search lan\nnameserver 127.0.0.11\noptions ndots:2\n");
        free(text);
        assert_int_equal(
                net_resolv_text(&(struct net_resolv){ .host_file = path, .servers = bad }, &text, NULL), -EINVAL);
        remove(path);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(ports_are_read_as_docker_reads_them),
                cmocka_unit_test(bad_ports_are_refused_with_an_error),
                cmocka_unit_test(subnets_know_what_is_in_them),
                cmocka_unit_test(addresses_count_over_bytes),
                cmocka_unit_test(group_addresses_are_no_cards),
                cmocka_unit_test(questions_are_read),
                cmocka_unit_test(names_that_are_no_file_names_are_not_plain),
                cmocka_unit_test(broken_questions_are_refused),
                cmocka_unit_test(long_answers_are_cut),
                cmocka_unit_test(a_reply_must_be_to_the_question),
                cmocka_unit_test(reverse_names_are_addresses),
                cmocka_unit_test(hosts_has_every_address_of_the_container),
                cmocka_unit_test(resolv_conf_names_the_resolver_or_the_hosts_servers),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
