/* The store of networks: definitions, and who has which address. Nothing here touches the kernel's networks. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "net/internal.h"

struct fixture {
        char root[32];
        struct net_store *store;
};

static int setup(void **state)
{
        struct fixture *f = calloc(1, sizeof(*f));

        strcpy(f->root, "/tmp/net.XXXXXX");
        if (!f || !mkdtemp(f->root))
                return -1;
        if (net_store_open(&(struct net_store_options){ .root = f->root }, &f->store, NULL) < 0)
                return -1;
        f->store->rootless = false;
        *state = f;
        return 0;
}

static int teardown(void **state)
{
        struct fixture *f = *state;

        net_store_close(f->store);
        store_remove_dir(AT_FDCWD, f->root);
        free(f);
        return 0;
}

static int create(struct fixture *f, const char *name, const char *subnet)
{
        const struct net_subnet s = { .subnet = subnet };
        struct err *err = NULL;
        const int r = net_create(
                f->store, name, &(struct net_create_options){ .subnets = &s, .n_subnets = subnet != NULL }, NULL, &err);

        assert_true(r == 0 || err); /* whoever fails says why */
        err_free(err);
        return r;
}

static void a_network_is_found_by_name_and_id(void **state)
{
        struct fixture *f = *state;
        const struct net_pair options[] = { { "com.docker.network.driver.mtu", "1400" }, { "icc", "false" } };
        const struct net_pair labels[] = { { "a", "b" } };
        const struct net_subnet subnets[] = {
                { .subnet = "198.18.0.0/24", .gateway = "198.18.0.9", .ip_range = "198.18.0.128/25" },
                { .subnet = "fd12::/64" }
        };
        struct net_network *n;
        char *id = NULL, prefix[8];

        assert_int_equal(net_create(f->store, "web",
                                 &(struct net_create_options){ .subnets = subnets,
                                         .n_subnets = 2,
                                         .options = options,
                                         .n_options = 2,
                                         .labels = labels,
                                         .n_labels = 1,
                                         .internal = true },
                                 &id, NULL),
                0);
        assert_int_equal(net_find(f->store, "web", &n, NULL), 0);
        assert_string_equal(n->id, id);
        assert_int_equal(n->mtu, 1400);
        assert_true(n->internal && n->ipv6 && n->dns && !n->predefined);
        assert_false(network_of(n)->icc);
        assert_int_equal(n->n_subnets, 2);
        assert_string_equal(n->subnets[0].gateway, "198.18.0.9");
        assert_string_equal(n->subnets[0].ip_range, "198.18.0.128/25");
        assert_string_equal(n->subnets[1].gateway, "fd12::1");
        assert_string_equal(n->labels[0].value, "b");
        net_network_free(n);
        snprintf(prefix, sizeof(prefix), "%.6s", id);
        assert_int_equal(net_find(f->store, prefix, &n, NULL), 0);
        assert_string_equal(n->name, "web");
        net_network_free(n);
        free(id);
        assert_int_equal(net_find(f->store, "none", &n, NULL), 0);
        assert_string_equal(n->driver, "none");
        net_network_free(n);
        assert_int_equal(net_find(f->store, "wep", &n, NULL), -ENOENT);
        assert_int_equal(net_find(f->store, "../lock", &n, NULL), -ENOENT);
}

static void what_cannot_be_is_refused(void **state)
{
        static const char *const bad_names[] = { "", "-a", ".a", "a/b", "a b", "a\n" };
        static const char *const bad_subnets[] = { "10.0.0.0", "10.0.0.1/24", "127.0.0.0/8", "224.0.0.0/8",
                "10.0.0.0/31", "0.0.0.0/0", "ff02::/64" };
        static const struct net_pair bad_options[] = { { "mtu", "9" }, { "mtu", "x" }, { "icc", "maybe" },
                { "colour", "red" }, { "bridge", "a-name-that-is-too-long" } };
        struct fixture *f = *state;

        for (size_t i = 0; i < ARRAY_SIZE(bad_names); i++)
                assert_int_equal(create(f, bad_names[i], NULL), -EINVAL);
        for (size_t i = 0; i < ARRAY_SIZE(bad_subnets); i++)
                assert_int_equal(create(f, "n", bad_subnets[i]), -EINVAL);
        for (size_t i = 0; i < ARRAY_SIZE(bad_options); i++)
                assert_int_equal(
                        net_create(f->store, "n",
                                &(struct net_create_options){ .options = &bad_options[i], .n_options = 1 }, NULL, NULL),
                        -EINVAL);
        assert_int_equal(create(f, "bridge", NULL), -EEXIST);
        assert_int_equal(
                net_create(f->store, "n", &(struct net_create_options){ .driver = "overlay" }, NULL, NULL), -EINVAL);
        assert_int_equal(net_remove(f->store, "bridge", NULL), -EPERM);
}

static void subnets_do_not_meet(void **state)
{
        struct fixture *f = *state;
        struct net_network *a, *b;

        assert_int_equal(create(f, "one", "198.18.0.0/16"), 0);
        assert_int_equal(create(f, "one", NULL), -EEXIST);
        assert_int_equal(create(f, "two", "198.18.4.0/24"), -EEXIST);
        assert_int_equal(create(f, "two", "198.18.0.0/15"), -EEXIST);
        assert_int_equal(create(f, "three", NULL), 0);
        assert_int_equal(create(f, "four", NULL), 0);
        assert_int_equal(net_find(f->store, "three", &a, NULL), 0);
        assert_int_equal(net_find(f->store, "four", &b, NULL), 0);
        assert_string_not_equal(a->subnets[0].subnet, b->subnets[0].subnet);
        assert_string_not_equal(a->bridge, b->bridge);
        net_network_free(a);
        net_network_free(b);
}

static int count(void *opaque, const struct net_network *network)
{
        char *order = opaque;

        strcat(strcat(order, network->name), " ");
        return 0;
}

static void predefined_networks_come_first(void **state)
{
        struct fixture *f = *state;
        char order[200] = "";

        create(f, "b", NULL);
        create(f, "a", NULL);
        assert_int_equal(net_list(f->store, count, order, NULL), 0);
        assert_string_equal(order, "bridge none host a b ");
}

static void a_damaged_definition_is_an_error_not_a_crash(void **state)
{
        static const char *const texts[] = {
                "", "{", "[]", "{}", "{\"id\": 1}", "null",
                "{\"id\":\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\",\"name\":\"x\",\"driver\":\"bridge\",\"created\":\"\","
                "\"internal\":false,\"ipv6\":false,\"subnets\":[{\"subnet\":\"10.0.0.0/99\",\"gateway\":\"x\"}],\"options\":{},\"labels\":{}}"
        };
        struct fixture *f = *state;

        for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
                struct net_network *n;
                struct err *err = NULL;
                const int fd = openat(f->store->fd, "networks/x.json", O_WRONLY | O_CREAT | O_TRUNC, 0600);

                assert_int_equal(write(fd, texts[i], strlen(texts[i])), strlen(texts[i]));
                close(fd);
                assert_int_equal(net_find(f->store, "x", &n, &err), -EINVAL);
                err_free(err);
        }
}

/* --- addresses ---------------------------------------------------------------------------------------------------- */

static struct network *small_network(struct fixture *f)
{
        struct network *network = NULL;

        assert_int_equal(
                create(f, "small", "198.18.7.0/29"), 0); /* .1 is the gateway's, .7 everybody's: 2 to 6 are left */
        assert_int_equal(network_find(f->store, "small", &network, NULL), 0);
        return network;
}

static void addresses_are_given_once_until_there_are_none(void **state)
{
        struct fixture *f = *state;
        struct network *network = small_network(f);
        const struct ip none = { 0 };
        struct err *err = NULL;
        struct ip ip, second;

        for (int i = 2; i <= 6; i++) {
                assert_int_equal(ipam_take(f->store, network, V4, &none, "c", "", &ip, NULL), 0);
                assert_int_equal(ip.bytes[3], i);
        }
        assert_int_equal(ipam_take(f->store, network, V4, &none, "c", "", &ip, &err), -ENOSPC);
        assert_int_equal(err_get_id(err), ERR_BUSY);
        err_free(err);
        second = (struct ip){ 4, { 198, 18, 7, 3 } };
        ipam_release(f->store, network->key, &second, "other"); /* not its own */
        assert_int_equal(ipam_take(f->store, network, V4, &none, "c", "", &ip, NULL), -ENOSPC);
        ipam_release(f->store, network->key, &second, "c");
        assert_int_equal(ipam_take(f->store, network, V4, &none, "d", "", &ip, NULL), 0);
        assert_true(ip_equal(&ip, &second));
        network_free(network);
}

static void a_given_address_comes_back_late(void **state)
{
        struct fixture *f = *state;
        struct network *network = small_network(f);
        const struct ip none = { 0 };
        struct ip first, next;

        assert_int_equal(ipam_take(f->store, network, V4, &none, "c", "", &first, NULL), 0);
        ipam_release(f->store, network->key, &first, "c");
        assert_int_equal(ipam_take(f->store, network, V4, &none, "c", "", &next, NULL), 0);
        assert_false(ip_equal(&first, &next));
        network_free(network);
}

static void wanted_addresses_must_be_free_and_inside(void **state)
{
        struct fixture *f = *state;
        struct network *network = small_network(f);
        struct ip ip;

        assert_int_equal(ipam_take(f->store, network, V4, &(struct ip){ 4, { 198, 18, 7, 5 } }, "c", "", &ip, NULL), 0);
        assert_int_equal(ipam_take(f->store, network, V4, &(struct ip){ 4, { 198, 18, 7, 5 } }, "d", "", &ip, NULL),
                -EADDRINUSE);
        assert_int_equal(
                ipam_take(f->store, network, V4, &(struct ip){ 4, { 198, 18, 7, 1 } }, "d", "", &ip, NULL), -EINVAL);
        assert_int_equal(
                ipam_take(f->store, network, V4, &(struct ip){ 4, { 198, 18, 7, 0 } }, "d", "", &ip, NULL), -EINVAL);
        assert_int_equal(
                ipam_take(f->store, network, V4, &(struct ip){ 4, { 198, 18, 7, 7 } }, "d", "", &ip, NULL), -EINVAL);
        assert_int_equal(
                ipam_take(f->store, network, V4, &(struct ip){ 4, { 198, 18, 8, 2 } }, "d", "", &ip, NULL), -EINVAL);
        network_free(network);
}

/* --- records ------------------------------------------------------------------------------------------------------ */

static void a_record_is_read_as_it_was_written(void **state)
{
        struct fixture *f = *state;
        const char *names[] = { "one", "two", NULL };
        struct published ports[] = { { IPPROTO_UDP, { 4, { 127, 0, 0, 1 } }, 53, 5353 },
                { IPPROTO_TCP, { 0 }, 1, 65535 } };
        const struct endpoint e = { .container = "c",
                .name = "n",
                .network = "web",
                .key = "0123456789ab",
                .network_id = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
                .ifname = "eth0",
                .host_ifname = "sv1",
                .mac = "02:00:00:00:00:01",
                .ip = { { 4, { 10, 0, 0, 2 } }, { 0 } },
                .gateway = { { 4, { 10, 0, 0, 1 } }, { 0 } },
                .prefix_len = { 24, 0 },
                .mtu = 1500,
                .dns = "",
                .names = names,
                .ports = ports,
                .n_ports = 2,
                .pid = 7,
                .default_route = true };
        struct endpoint *back = NULL;
        int dir;

        assert_int_equal(endpoint_lock(f->store, "c", true, &dir, NULL), 0);
        assert_int_equal(endpoint_write(dir, &e, NULL), 0);
        assert_int_equal(endpoint_read(dir, e.key, &back, NULL), 0);
        assert_string_equal(back->key, e.key);
        assert_string_equal(back->names[1], "two");
        assert_null(back->names[2]);
        assert_int_equal(back->n_ports, 2);
        assert_true(ip_equal(&back->ports[0].host_ip, &ports[0].host_ip));
        assert_int_equal(back->ports[1].host_ip.len, 0);
        assert_int_equal(back->ports[1].container_port, 65535);
        assert_true(ip_equal(&back->ip[V4], &e.ip[V4]));
        assert_int_equal(back->ip[V6].len, 0);
        assert_true(back->default_route);
        endpoint_free(back);
        assert_int_equal(endpoint_read(dir, "bbbbbbbbbbbb", &back, NULL), -ENOENT);
        close(dir);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(a_network_is_found_by_name_and_id, setup, teardown),
                cmocka_unit_test_setup_teardown(what_cannot_be_is_refused, setup, teardown),
                cmocka_unit_test_setup_teardown(subnets_do_not_meet, setup, teardown),
                cmocka_unit_test_setup_teardown(predefined_networks_come_first, setup, teardown),
                cmocka_unit_test_setup_teardown(a_damaged_definition_is_an_error_not_a_crash, setup, teardown),
                cmocka_unit_test_setup_teardown(addresses_are_given_once_until_there_are_none, setup, teardown),
                cmocka_unit_test_setup_teardown(a_given_address_comes_back_late, setup, teardown),
                cmocka_unit_test_setup_teardown(wanted_addresses_must_be_free_and_inside, setup, teardown),
                cmocka_unit_test_setup_teardown(a_record_is_read_as_it_was_written, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
