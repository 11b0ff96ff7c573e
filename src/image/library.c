#include "library.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>

struct symbol {
        const char *name;
        size_t offset; /* of the member of the table */
};

struct library {
        const char *file;
        const struct symbol *symbols;
        size_t n_symbols;
        void *table;
        bool ready;
};

#define CURL_SYMBOL(name)   { #name, offsetof(struct curl_library, name) },
#define CRYPTO_SYMBOL(name) { #name, offsetof(struct crypto_library, name) },
#define BZIP2_SYMBOL(name)  { #name, offsetof(struct bzip2_library, name) },

static const struct symbol curl_symbols[] = { CURL_FUNCTIONS(CURL_SYMBOL) };
static const struct symbol crypto_symbols[] = { CRYPTO_FUNCTIONS(CRYPTO_SYMBOL) };
static const struct symbol bzip2_symbols[] = { BZIP2_FUNCTIONS(BZIP2_SYMBOL) };

/* Filled once a process: what the dynamic linker would have done at the start. */
static struct curl_library curl_table;
static struct crypto_library crypto_table;
static struct bzip2_library bzip2_table;
static struct library curl_entry = { "libcurl.so.4", curl_symbols, ARRAY_SIZE(curl_symbols), &curl_table, false };
static struct library crypto_entry = { "libcrypto.so.3", crypto_symbols, ARRAY_SIZE(crypto_symbols), &crypto_table,
        false };
static struct library bzip2_entry = { "libbz2.so.1.0", bzip2_symbols, ARRAY_SIZE(bzip2_symbols), &bzip2_table, false };

static int load(struct library *library, struct err **err)
{
        void *handle = dlopen(library->file, RTLD_NOW | RTLD_LOCAL);
        int r;

        if (!handle) {
                r = err_set(err, ERR_UNSUPPORTED, ENOSYS, "loading a library: %s", dlerror());
                return err_hint(err, r, "install the package that has %s", library->file);
        }
        for (size_t i = 0; i < library->n_symbols; i++) {
                void *symbol = dlsym(handle, library->symbols[i].name);

                if (!symbol)
                        return err_set(
                                err, ERR_UNSUPPORTED, ENOSYS, "%s has no %s", library->file, library->symbols[i].name);
                *(void **)((char *)library->table + library->symbols[i].offset) = symbol;
        }
        return 0;
}

static const void *get(struct library *library, int (*prepare)(struct err **err), struct err **err)
{
        static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
        int r = 0;

        if (__atomic_load_n(&library->ready, __ATOMIC_ACQUIRE))
                return library->table;
        pthread_mutex_lock(&lock);
        if (!library->ready) {
                r = load(library, err);
                if (r == 0 && prepare)
                        r = prepare(err);
                if (r == 0) /* pairs with the load above */
                        __atomic_store_n(&library->ready, true, __ATOMIC_RELEASE);
        }
        pthread_mutex_unlock(&lock);
        return r < 0 ? NULL : library->table;
}

static int prepare_curl(struct err **err)
{
        if (curl_table.curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
                return err_set(err, ERR_UNSUPPORTED, ENOSYS, "libcurl cannot be initialised");
        return 0;
}

const struct curl_library *library_curl(struct err **err)
{
        return get(&curl_entry, prepare_curl, err);
}

const struct crypto_library *library_crypto(struct err **err)
{
        return get(&crypto_entry, NULL, err);
}

const struct bzip2_library *library_bzip2(struct err **err)
{
        return get(&bzip2_entry, NULL, err);
}
