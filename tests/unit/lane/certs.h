// SPDX-License-Identifier: Apache-2.0
/* Certificates for tests, made on the spot in a temporary folder. */
#pragma once

#include "lane/lane.h"

typedef struct TestCa TestCa;

typedef struct TestCert {
    const char *common_name; /* NULL: none */
    const char *dns_name;    /* NULL: none */
    const char *purpose;     /* extended key usage, an OID; NULL: none */
    int64_t begins_s;        /* relative to now; both 0: an hour ago to in a day */
    int64_t ends_s;
} TestCert;

/* A CA whose certificate is written to DIR/NAME.crt. */
TestCa *test_ca_new(const char *dir, const char *name);
void test_ca_free(TestCa *ca);

/* Writes DIR/NAME.crt and DIR/NAME.key. */
void test_cert_write(TestCa *ca, const char *dir, const char *name, const TestCert *spec);

/* Loads DIR/CA.crt, DIR/NAME.crt, DIR/NAME.key. Transfer full. */
GwLaneCredentials *test_credentials(const char *dir, const char *ca, const char *name);
