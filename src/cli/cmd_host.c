// SPDX-License-Identifier: Apache-2.0
/*
 * `godwit init`, `godwit sign`, `godwit host …`. Owns nothing; one thread.
 */
#include "cli/cli.h"
#include "cli/text.h"

#include <stdio.h>
#include <string.h>

#define MAX_PEM_BYTES ((size_t)64 * 1024)

static void
print_identity(const GwCli *cli, const json_t *identity)
{
    static const struct {
        const char *label;
        const char *key;
    } rows[] = {{"host", "name"},
                {"identity", "state"},
                {"expires", "expires"},
                {"CA", "ca_fingerprint"},
                {"problem", "problem"}};

    if (cli->json) {
        gw_cli_print_json(identity, false);
        return;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        const char *value = gw_json_str(identity, rows[i].key, NULL);
        if (value) {
            g_autofree char *safe = gw_text_escape(value, false);
            printf("%-10s%s\n", rows[i].label, safe);
        }
    }
    if (gw_json_bool(identity, "is_ca", false)) {
        puts("This host holds the CA: sign other hosts' requests with `godwit sign FILE`.");
    }
}

/* Prints PEM on stdout, alone, so that it can be redirected. */
static bool
print_pem(GwCli *cli, const char *path, const json_t *body, const char *member, GError **error)
{
    g_autoptr(json_t) answer = gw_cli_call(cli, "POST", path, body, error);

    if (!answer) {
        return false;
    }
    if (cli->json) {
        gw_cli_print_json(answer, false);
    } else {
        g_autofree char *pem = gw_text_escape(gw_json_str(answer, member, ""), true);
        fputs(pem, stdout);
    }
    return true;
}

static bool
install(GwCli *cli, const char *file, GError **error)
{
    g_autofree char *pem = gw_cli_read_file(file, MAX_PEM_BYTES, error);

    if (!pem) {
        return false;
    }
    g_autoptr(json_t) body = json_object();
    gw_json_set_str(body, "certificates", pem);
    g_autoptr(json_t) identity = gw_cli_call(cli, "POST", "/v1/identity/install", body, error);
    if (identity) {
        print_identity(cli, identity);
    }
    return identity != NULL;
}

static bool
init(GwCli *cli, char **args, GError **error)
{
    gboolean join = FALSE;
    gboolean status = FALSE;
    g_autofree char *file = NULL;
    const GOptionEntry options[] = {
        {"join", 0, 0, G_OPTION_ARG_NONE, &join,
         "Print a signing request for the host that holds the CA", NULL},
        {"install", 0, 0, G_OPTION_ARG_FILENAME, &file, "Put the answer of `godwit sign` in place",
         "FILE"},
        {"status", 0, 0, G_OPTION_ARG_NONE, &status, "Show the identity and change nothing", NULL},
        {0}};

    if (!gw_cli_parse(cli, args, options, 0, 0, error)) {
        return false;
    }
    if (join + status + (file != NULL) > 1) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                    "give only one of --join, --install and --status");
        return false;
    }
    if (join) {
        return print_pem(cli, "/v1/identity/request", NULL, "request", error);
    }
    if (file) {
        return install(cli, file, error);
    }
    g_autoptr(json_t) identity = status
                                     ? gw_cli_call(cli, "GET", "/v1/identity", NULL, error)
                                     : gw_cli_call(cli, "POST", "/v1/identity/init", NULL, error);
    if (identity) {
        print_identity(cli, identity);
    }
    return identity != NULL;
}

static bool
sign(GwCli *cli, char **args, GError **error)
{
    int days = 0;
    const GOptionEntry options[] = {
        {"days", 0, 0, G_OPTION_ARG_INT, &days, "How long the certificate is valid (2 years)", "N"},
        {0}};

    if (!gw_cli_parse(cli, args, options, 1, 1, error)) {
        return false;
    }
    g_autofree char *request = gw_cli_read_file(args[0], MAX_PEM_BYTES, error);
    if (!request) {
        return false;
    }
    g_autoptr(json_t) body = json_object();
    gw_json_set_str(body, "request", request);
    if (days != 0) {
        gw_json_set_int(body, "valid_days", days);
    }
    return print_pem(cli, "/v1/identity/sign", body, "certificates", error);
}

static bool
host_add(GwCli *cli, char **args, GError **error)
{
    if (!gw_cli_parse(cli, args, NULL, 2, G_MAXUINT, error)) {
        return false;
    }
    g_autofree char *addresses = g_strjoinv(",", args + 1);
    g_autoptr(json_t) body = json_object();
    gw_json_set_str(body, "name", args[0]);
    gw_json_set_str(body, "address", addresses);
    g_autoptr(json_t) answer = gw_cli_call(cli, "POST", "/v1/hosts", body, error);
    if (!answer) {
        return false;
    }
    if (cli->json) {
        gw_cli_print_json(answer, false);
    } else {
        printf("%s is known now; add this host there, too\n", args[0]);
    }
    return true;
}

static bool
host_remove(GwCli *cli, char **args, GError **error)
{
    if (!gw_cli_parse(cli, args, NULL, 1, 1, error)) {
        return false;
    }
    g_autofree char *path = gw_client_path("/v1/hosts/", args[0], "");
    g_autoptr(json_t) answer = gw_cli_call(cli, "DELETE", path, NULL, error);
    if (!answer) {
        return false;
    }
    if (cli->json) {
        gw_cli_print_json(answer, false);
    } else {
        printf("%s is not known any more\n", args[0]);
    }
    return true;
}

/* "192.0.2.7,192.0.3.7:7790" */
static char *
address_text(const json_t *host)
{
    g_autoptr(GString) text = g_string_new(NULL);
    const json_t *addresses = json_object_get(host, "addresses");
    const json_t *address;
    size_t i;

    json_array_foreach(addresses, i, address)
    {
        const char *word = json_is_string(address) ? json_string_value(address) : "?";
        g_string_append_printf(text, strchr(word, ':') ? "%s[%s]" : "%s%s", i > 0 ? "," : "", word);
    }
    if (text->len == 0) {
        g_string_append(text, gw_json_str(host, "address", "-"));
    }
    return g_strdup_printf("%s:%" G_GINT64_FORMAT, text->str, gw_json_int(host, "port", 0));
}

static void
print_host_table(const json_t *hosts)
{
    static const char *const headings[] = {"NAME",  "ADDRESS", "STATE", "GODWIT", "QEMU",
                                           "ACCEL", "CPUS",    "FREE",  NULL};
    g_autoptr(GwTable) table = gw_table_new(headings);
    const json_t *host;
    size_t i;

    json_array_foreach(hosts, i, host)
    {
        bool reachable = gw_json_bool(host, "reachable", false);
        g_autofree char *address = address_text(host);
        g_autofree char *cpus = g_strdup_printf("%" G_GINT64_FORMAT, gw_json_int(host, "cpus", 0));
        g_autofree char *memory = gw_text_size(host, "memory_available_bytes");
        const char *state = gw_json_bool(host, "self", false) ? "this host"
                            : reachable                       ? "reachable"
                                                              : "unreachable";
        gw_table_add(table, gw_json_str(host, "name", NULL), address, state,
                     gw_json_str(host, "godwit_version", NULL),
                     gw_json_str(host, "qemu_version", NULL), gw_json_str(host, "accel", NULL),
                     reachable ? cpus : NULL, memory);
    }
    g_autofree char *text = gw_table_text(table);
    fputs(text, stdout);
}

/* Why a host does not answer or cannot run guests, below the table. */
static void
print_host_problems(const json_t *hosts)
{
    const json_t *host;
    size_t i;

    json_array_foreach(hosts, i, host)
    {
        const char *why = gw_json_str(json_object_get(host, "error"), "message",
                                      gw_json_str(host, "problem", NULL));
        if (why) {
            g_autofree char *name = gw_text_escape(gw_json_str(host, "name", "?"), false);
            g_autofree char *text = gw_text_escape(why, false);
            printf("%s: %s\n", name, text);
        }
    }
}

static bool
host_list(GwCli *cli, char **args, GError **error)
{
    gboolean names = FALSE;
    const GOptionEntry options[] = {
        {"names", 0, 0, G_OPTION_ARG_NONE, &names, "Print the names only", NULL}, {0}};

    if (!gw_cli_parse(cli, args, options, 0, 0, error)) {
        return false;
    }
    g_autoptr(json_t) answer = gw_cli_call(cli, "GET", "/v1/hosts", NULL, error);
    if (!answer) {
        return false;
    }
    const json_t *hosts = json_object_get(answer, "hosts");
    if (names) {
        gw_cli_print_members(hosts, "name");
    } else if (cli->json) {
        gw_cli_print_json(hosts, false);
    } else {
        print_host_table(hosts);
        print_host_problems(hosts);
    }
    return true;
}

const GwCommand gw_commands_host[] = {
    {"init", NULL, "", "make this host's identity: a CA, or --join an existing one", init},
    {"sign", NULL, "FILE", "sign another host's request; prints its certificate", sign},
    {"host", "add", "NAME ADDRESS[:PORT]...", "trust another host", host_add},
    {"host", "list", "", "list the known hosts and ask each for its state", host_list},
    {"host", "remove", "NAME", "forget another host", host_remove},
    {0},
};
