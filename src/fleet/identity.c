// SPDX-License-Identifier: Apache-2.0
/*
 * The files of this host's identity and the steps that make them. Owns nothing in memory; main
 * context; blocking for local files and a signature.
 *
 * A crash may come between any two files. host.crt is written last and makes the identity valid;
 * pending.* go last of all. So what a crash leaves is either the state before or one from which
 * the same step, repeated, ends well: each step takes over what an unfinished run left of it.
 * A host that has an identity and asks for a new certificate keeps its key, so that its renewal is
 * the one atomic replacement of host.crt.
 *
 * Fails with GW_ERROR_IO where a file cannot be read or written, GW_ERROR_STATE where the step
 * does not fit what is there, GW_ERROR_INVALID and GW_ERROR_REFUSED for what was handed in.
 */
#include "fleet/identity.h"
#include "base/fd.h"
#include "base/units.h"
#include "fleet/x509.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

typedef struct Paths {
    char *ca_cert;
    char *ca_key;
    char *host_cert;
    char *host_key;
    char *pending_key;
    char *pending_request;
} Paths;

static Paths *
paths_new(const char *pki_dir)
{
    Paths *paths = g_new0(Paths, 1);

    paths->ca_cert = g_build_filename(pki_dir, "ca.crt", NULL);
    paths->ca_key = g_build_filename(pki_dir, "ca.key", NULL);
    paths->host_cert = g_build_filename(pki_dir, "host.crt", NULL);
    paths->host_key = g_build_filename(pki_dir, "host.key", NULL);
    paths->pending_key = g_build_filename(pki_dir, "pending.key", NULL);
    paths->pending_request = g_build_filename(pki_dir, "pending.csr", NULL);
    return paths;
}

static void
paths_free(Paths *paths)
{
    g_free(paths->ca_cert);
    g_free(paths->ca_key);
    g_free(paths->host_cert);
    g_free(paths->host_key);
    g_free(paths->pending_key);
    g_free(paths->pending_request);
    g_free(paths);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Paths, paths_free)

static bool
exists(const char *path)
{
    struct stat st;

    return lstat(path, &st) == 0;
}

static bool
make_pki_dir(const char *pki_dir, GError **error)
{
    if (g_mkdir_with_parents(pki_dir, 0700) < 0 || chmod(pki_dir, 0700) < 0) {
        gw_set_error_errno(error, errno, "cannot make the folder '%s' for this host's identity",
                           pki_dir);
        return false;
    }
    return true;
}

/* --- reading and writing ---------------------------------------------------------------------- */

static GwX509Key *
read_key(const char *path, GError **error)
{
    char *pem = gw_file_read(path, GW_IDENTITY_MAX_PEM_BYTES, NULL, error);
    GwX509Key *key = pem ? gw_x509_key_parse(pem, path, error) : NULL;

    gw_x509_secret_free(pem);
    return key;
}

static GwX509Cert *
read_cert(const char *path, GError **error)
{
    g_autofree char *pem = gw_file_read(path, GW_IDENTITY_MAX_PEM_BYTES, NULL, error);

    return pem ? gw_x509_cert_parse(pem, path, error) : NULL;
}

static bool
write_key(const char *path, GwX509Key *key, GError **error)
{
    char *pem = gw_x509_key_pem(key, error);
    bool ok = pem && gw_file_write(path, pem, strlen(pem), 0600, error);

    gw_x509_secret_free(pem);
    return ok;
}

static bool
write_cert(const char *path, GwX509Cert *cert, GError **error)
{
    g_autofree char *pem = gw_x509_cert_pem(cert, error);

    return pem && gw_file_write(path, pem, strlen(pem), 0600, error);
}

/* The key in @path; a new one is made and kept there if there is no such file. */
static GwX509Key *
read_or_make_key(const char *path, GError **error)
{
    if (exists(path)) {
        return read_key(path, error);
    }
    g_autoptr(GwX509Key) key = gw_x509_key_new(error);
    return key && write_key(path, key, error) ? g_steal_pointer(&key) : NULL;
}

/* Do key and certificate belong together? @what names the pair for the message. */
static bool
check_pair(GwX509Key *key, GwX509Cert *cert, const char *what, GError **error)
{
    GwX509KeyId of_key;
    GwX509KeyId of_cert;

    if (!gw_x509_key_id(key, &of_key, error) || !gw_x509_cert_key_id(cert, &of_cert, error)) {
        return false;
    }
    if (!gw_x509_key_id_equal(&of_key, &of_cert)) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "%s: certificate and key do not fit", what);
        return false;
    }
    return true;
}

static bool
same_certificate(GwX509Cert *a, GwX509Cert *b)
{
    return gnutls_x509_crt_equals(a, b) != 0;
}

/* --- status ----------------------------------------------------------------------------------- */

static bool
check_installed(const Paths *paths, GwX509Cert *ca, GwX509Cert *cert, GError **error)
{
    g_autofree char *name = gw_x509_cert_name(cert);
    g_autoptr(GwX509Key) key = read_key(paths->host_key, error);

    return key && check_pair(key, cert, paths->host_cert, error) &&
           gw_x509_check_host(cert, ca, name ? name : "", error);
}

static void
describe_installed(json_t *status, const Paths *paths)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GwX509Cert) ca = read_cert(paths->ca_cert, &error);
    g_autoptr(GwX509Cert) cert = ca ? read_cert(paths->host_cert, &error) : NULL;

    if (ca) {
        g_autofree char *fingerprint = gw_x509_cert_fingerprint(ca);
        gw_json_set_str(status, "ca_fingerprint", fingerprint);
    }
    if (cert) {
        g_autofree char *name = gw_x509_cert_name(cert);
        int64_t end = (int64_t)gnutls_x509_crt_get_expiration_time(cert);
        g_autofree char *expires = gw_format_time(end * G_USEC_PER_SEC);
        gw_json_set_str(status, "name", name);
        gw_json_set_str(status, "expires", expires);
    }
    if (cert && check_installed(paths, ca, cert, &error)) {
        gw_json_set_str(status, "state", "ready");
    } else {
        gw_json_set_str(status, "problem", error->message);
    }
}

json_t *
gw_identity_status(const char *pki_dir)
{
    g_autoptr(Paths) paths = paths_new(pki_dir);
    json_t *status = json_object();

    gw_json_set_str(status, "state", exists(paths->pending_key) ? "pending" : "none");
    gw_json_set_bool(status, "is_ca", exists(paths->ca_key));
    if (exists(paths->host_cert)) {
        describe_installed(status, paths);
    }
    return status;
}

/* --- the CA ----------------------------------------------------------------------------------- */

/* The CA of an unfinished run is used again: it may have been lost only in part. */
static GwX509Cert *
read_or_make_ca(const Paths *paths, GwX509Key *key, GError **error)
{
    if (exists(paths->ca_cert)) {
        g_autoptr(GwX509Cert) cert = read_cert(paths->ca_cert, error);
        return cert && check_pair(key, cert, paths->ca_cert, error) ? g_steal_pointer(&cert) : NULL;
    }
    g_autoptr(GwX509Cert) cert = gw_x509_ca_new(key, error);
    return cert && write_cert(paths->ca_cert, cert, error) ? g_steal_pointer(&cert) : NULL;
}

static bool
check_nothing_there(const Paths *paths, const char *pki_dir, GError **error)
{
    if (exists(paths->host_cert)) {
        g_set_error(error, GW_ERROR, GW_ERROR_EXISTS,
                    "this host has an identity already ('%s'): 'godwit init --join' renews it",
                    paths->host_cert);
        return false;
    }
    if (exists(paths->pending_key)) {
        g_set_error(error, GW_ERROR, GW_ERROR_EXISTS,
                    "this host is joining a fleet: end that with 'godwit init --install', or "
                    "remove the files pending.* in '%s' to drop it",
                    pki_dir);
        return false;
    }
    if (exists(paths->ca_cert) && !exists(paths->ca_key)) {
        g_set_error(error, GW_ERROR, GW_ERROR_EXISTS,
                    "'%s' holds the CA of a fleet that this host did not make: join it with "
                    "'godwit init --join', or remove the file",
                    pki_dir);
        return false;
    }
    return true;
}

static GwX509Cert *
sign_own(const GwX509Signer *ca, GwX509Key *key, const char *host_name, GError **error)
{
    g_autofree char *name = NULL;
    g_autofree char *pem = gw_x509_request_pem(key, host_name, error);
    g_autoptr(GwX509Request) request = pem ? gw_x509_request_parse(pem, &name, error) : NULL;

    return request ? gw_x509_sign(ca, request, name, 0, error) : NULL;
}

bool
gw_identity_init_ca(const char *pki_dir, const char *host_name, GError **error)
{
    g_autoptr(Paths) paths = paths_new(pki_dir);

    if (!gw_check_name("host name", host_name, error) ||
        !check_nothing_there(paths, pki_dir, error) || !make_pki_dir(pki_dir, error)) {
        return false;
    }
    g_autoptr(GwX509Key) ca_key = read_or_make_key(paths->ca_key, error);
    g_autoptr(GwX509Cert) ca = ca_key ? read_or_make_ca(paths, ca_key, error) : NULL;
    g_autoptr(GwX509Key) key = ca ? read_or_make_key(paths->host_key, error) : NULL;
    if (!key) {
        return false;
    }
    const GwX509Signer signer = {ca_key, ca};
    g_autoptr(GwX509Cert) cert = sign_own(&signer, key, host_name, error);
    return cert && write_cert(paths->host_cert, cert, error);
}

/* --- requests --------------------------------------------------------------------------------- */

/* The kept request, if it is for this name and key. */
static char *
kept_request(const Paths *paths, const char *host_name, GwX509Key *key)
{
    g_autofree char *name = NULL;
    g_autofree char *pem =
        gw_file_read(paths->pending_request, GW_IDENTITY_MAX_PEM_BYTES, NULL, NULL);
    g_autoptr(GwX509Request) request = pem ? gw_x509_request_parse(pem, &name, NULL) : NULL;
    GwX509KeyId of_key;
    GwX509KeyId of_request;

    if (request && g_str_equal(name, host_name) && gw_x509_key_id(key, &of_key, NULL) &&
        gw_x509_request_key_id(request, &of_request, NULL) &&
        gw_x509_key_id_equal(&of_key, &of_request)) {
        return g_steal_pointer(&pem);
    }
    return NULL;
}

/* A new key for a host that joins, the same key for one that renews. */
static GwX509Key *
pending_key(const Paths *paths, GError **error)
{
    if (exists(paths->pending_key) || !exists(paths->host_cert)) {
        return read_or_make_key(paths->pending_key, error);
    }
    g_autoptr(GwX509Key) key = read_key(paths->host_key, error);
    return key && write_key(paths->pending_key, key, error) ? g_steal_pointer(&key) : NULL;
}

char *
gw_identity_request(const char *pki_dir, const char *host_name, GError **error)
{
    g_autoptr(Paths) paths = paths_new(pki_dir);

    if (!gw_check_name("host name", host_name, error) || !make_pki_dir(pki_dir, error)) {
        return NULL;
    }
    if (exists(paths->ca_key) && !exists(paths->host_cert)) {
        g_set_error(error, GW_ERROR, GW_ERROR_STATE,
                    "this host began to make a fleet CA of its own: end that with 'godwit init', "
                    "or remove the files in '%s' to drop it",
                    pki_dir);
        return NULL;
    }
    g_autoptr(GwX509Key) key = pending_key(paths, error);
    if (!key) {
        return NULL;
    }
    g_autofree char *pem = kept_request(paths, host_name, key);
    if (pem) {
        return g_steal_pointer(&pem);
    }
    pem = gw_x509_request_pem(key, host_name, error);
    if (!pem || !gw_file_write(paths->pending_request, pem, strlen(pem), 0600, error)) {
        return NULL;
    }
    return g_steal_pointer(&pem);
}

/* --- signing ---------------------------------------------------------------------------------- */

/* Nobody else may get a certificate in the name of the CA's own host. */
static bool
check_not_ours(const Paths *paths, GwX509Request *request, const char *name, GError **error)
{
    g_autoptr(GwX509Cert) own = read_cert(paths->host_cert, error);
    g_autofree char *own_name = own ? gw_x509_cert_name(own) : NULL;
    GwX509KeyId of_request;
    GwX509KeyId of_own;

    if (!own) {
        return false;
    }
    if (g_strcmp0(own_name, name) != 0) {
        return true;
    }
    if (!gw_x509_request_key_id(request, &of_request, error) ||
        !gw_x509_cert_key_id(own, &of_own, error)) {
        return false;
    }
    if (!gw_x509_key_id_equal(&of_request, &of_own)) {
        g_set_error(error, GW_ERROR, GW_ERROR_REFUSED,
                    "the signing request is for '%s', which is this very host: give the other host "
                    "a name of its own ([host] name in godwitd.conf)",
                    name);
        return false;
    }
    return true;
}

char *
gw_identity_sign(const char *pki_dir, const char *request_pem, unsigned valid_days, GError **error)
{
    g_autoptr(Paths) paths = paths_new(pki_dir);
    g_autofree char *name = NULL;

    if (!exists(paths->ca_key) || !exists(paths->host_cert)) {
        g_set_error(error, GW_ERROR, GW_ERROR_STATE,
                    "this host is not the fleet's CA ('%s' is missing): sign on the host where "
                    "'godwit init' made the CA",
                    exists(paths->ca_key) ? paths->host_cert : paths->ca_key);
        return NULL;
    }
    g_autoptr(GwX509Request) request = gw_x509_request_parse(request_pem, &name, error);
    if (!request || !check_not_ours(paths, request, name, error)) {
        return NULL;
    }
    g_autoptr(GwX509Key) key = read_key(paths->ca_key, error);
    g_autoptr(GwX509Cert) ca = key ? read_cert(paths->ca_cert, error) : NULL;
    if (!ca || !check_pair(key, ca, paths->ca_cert, error)) {
        return NULL;
    }
    const GwX509Signer signer = {key, ca};
    g_autoptr(GwX509Cert) cert = gw_x509_sign(&signer, request, name, valid_days, error);
    g_autofree char *cert_text = cert ? gw_x509_cert_pem(cert, error) : NULL;
    g_autofree char *ca_text = cert_text ? gw_x509_cert_pem(ca, error) : NULL;
    return ca_text ? g_strconcat(cert_text, ca_text, NULL) : NULL;
}

/* --- installing ------------------------------------------------------------------------------- */

/* The answer of a signing host: the host's certificate, then the CA's. */
static bool
parse_answer(const char *text, GwX509Cert **cert, GwX509Cert **ca, GError **error)
{
    static const char mark[] = "-----BEGIN CERTIFICATE-----";
    const char *first = strstr(text, mark);
    const char *second = first ? strstr(first + strlen(mark), mark) : NULL;

    if (!second || strstr(second + strlen(mark), mark)) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                    "two certificates are expected, the host's and the CA's, as the signing host "
                    "printed them");
        return false;
    }
    g_autofree char *first_text = g_strndup(first, (size_t)(second - first));
    g_autoptr(GwX509Cert) host = gw_x509_cert_parse(first_text, "the host's part", error);
    *ca = host ? gw_x509_cert_parse(second, "the CA's part", error) : NULL;
    if (!*ca) {
        return false;
    }
    *cert = g_steal_pointer(&host);
    return true;
}

/* A renewal stays within its fleet: a change of CA is never a side effect. */
static bool
check_same_fleet(const Paths *paths, GwX509Cert *ca, GError **error)
{
    if (!exists(paths->host_cert)) {
        return true;
    }
    g_autoptr(GwX509Cert) own_ca = read_cert(paths->ca_cert, error);
    if (!own_ca) {
        return false;
    }
    if (!same_certificate(own_ca, ca)) {
        g_autofree char *own_print = gw_x509_cert_fingerprint(own_ca);
        g_autofree char *print = gw_x509_cert_fingerprint(ca);
        g_set_error(error, GW_ERROR, GW_ERROR_EXISTS,
                    "this host belongs to the fleet of CA %s, the certificate is from CA %s: to "
                    "change fleets, remove the identity's files first",
                    own_print, print);
        return false;
    }
    return true;
}

static bool
remove_file(const char *path, GError **error)
{
    if (unlink(path) < 0 && errno != ENOENT) {
        gw_set_error_errno(error, errno, "cannot remove '%s'", path);
        return false;
    }
    return true;
}

bool
gw_identity_install(const char *pki_dir, const char *host_name, const char *certificates,
                    GError **error)
{
    g_autoptr(Paths) paths = paths_new(pki_dir);
    g_autoptr(GwX509Cert) cert = NULL;
    g_autoptr(GwX509Cert) ca = NULL;

    if (!exists(paths->pending_key)) {
        g_set_error(error, GW_ERROR, GW_ERROR_STATE,
                    "this host waits for no certificate: make a signing request first with "
                    "'godwit init --join'");
        return false;
    }
    g_autoptr(GwX509Key) key = read_key(paths->pending_key, error);
    if (!key || !parse_answer(certificates, &cert, &ca, error) ||
        !check_pair(key, cert, "the certificate is not for this host's pending request", error) ||
        !gw_x509_check_host(cert, ca, host_name, error) || !check_same_fleet(paths, ca, error)) {
        return false;
    }
    return write_key(paths->host_key, key, error) && write_cert(paths->ca_cert, ca, error) &&
           write_cert(paths->host_cert, cert, error) &&
           remove_file(paths->pending_request, error) && remove_file(paths->pending_key, error);
}
