/* Questions of containers and answers of servers: whatever is taken can be answered, in whatever room there is. */
#include <string.h>

#include "input.h"
#include "net/resolve/dns.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t len);

int LLVMFuzzerTestOneInput(const u8 *data, size_t len)
{
        struct input in = { data, len };
        const size_t room = DNS_HEADER + take(&in, 2) % 600, cut = take(&in, 1);
        struct ip addresses[4] = { { 4, { 10, 0, 0, 1 } }, { 16, { 0xfd } }, { 4, { 10, 0, 0, 2 } }, { 16, { 0xfe } } },
                  ip;
        struct dns_question question;
        u8 *message = malloc(in.left + 1), *out = malloc(room); /* of exact sizes, for the sanitizers */
        size_t n;
        int r;

        require(message && out);
        memcpy(message, in.p, in.left);
        r = dns_parse_query(message, in.left, &question);
        if (r == 0) {
                struct dns_answer answer = { .addresses = addresses,
                        .n = 4,
                        .name = question.is_plain ? question.name : "a.b",
                        .cut = cut & 1 };

                require(question.end <= in.left && strlen(question.name) <= DNS_NAME_MAX);
                if (question.is_plain)
                        require(!strchr(question.name, '/') && question.name[0] != '.' && !strstr(question.name, ".."));
                dns_reverse(question.name, &ip);
                n = dns_write_answer(message, &question, &answer, out, room);
                require(n >= DNS_HEADER && n <= room);
                if (n >= question.end)
                        require(dns_is_reply(out, n, message, &question));
                dns_is_reply(message, in.left, message, &question);
        } else if (in.left >= DNS_HEADER) {
                n = dns_write_answer(message, &question, &(struct dns_answer){ .rcode = DNS_FORMAT_ERROR }, out, room);
                require(n == DNS_HEADER);
        }
        free(message);
        free(out);
        return 0;
}
