/*
 * A TLS 1.2 server with mbedTLS 2.28 for the tests, in place of a MEF:
 *
 *   mbedtls_server CHAIN KEY CLIENT_ROOT
 *
 * It prints "PORT" and the port of 127.0.0.1 on which it listens, shakes hands
 * with one client in TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256 with certificates on
 * both sides, and prints "EXPORT" and the 48 octets of EXPORTER-oneM2M-Bootstrap
 * in hexadecimal. The library has no exporter at this version, but its PRF and
 * the master secret.
 */
#include <arpa/inet.h>
#include <mbedtls/ctr_drbg.h>
#include <mbedtls/entropy.h>
#include <mbedtls/error.h>
#include <mbedtls/net_sockets.h>
#include <mbedtls/ssl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static const char label[] = "EXPORTER-oneM2M-Bootstrap";

static unsigned char master[48], randoms[64];
static mbedtls_tls_prf_types prf;

static int keep(void *context, const unsigned char *secret, const unsigned char *block, size_t mac, size_t key, size_t iv,
		const unsigned char client[32], const unsigned char server[32], mbedtls_tls_prf_types type)
{
	(void)context, (void)block, (void)mac, (void)key, (void)iv;
	memcpy(master, secret, sizeof master);
	memcpy(randoms, client, 32);
	memcpy(randoms + 32, server, 32);
	prf = type;
	return 0;
}

static void must(const char *what, int code)
{
	if (code < 0) {
		char text[200];
		mbedtls_strerror(code, text, sizeof text);
		printf("FAILED %s: -0x%04x %s\n", what, -code, text);
		exit(1);
	}
}

int main(int argc, char **argv)
{
	static const int suites[] = {MBEDTLS_TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256, 0};
	mbedtls_net_context listener, net;
	mbedtls_ssl_context ssl;
	mbedtls_ssl_config config;
	mbedtls_entropy_context entropy;
	mbedtls_ctr_drbg_context random;
	mbedtls_x509_crt own, root;
	mbedtls_pk_context key;
	struct sockaddr_in address;
	socklen_t size = sizeof address;
	unsigned char exported[48];
	int code;

	if (argc != 4)
		return 2;
	setvbuf(stdout, NULL, _IONBF, 0);
	mbedtls_net_init(&listener);
	mbedtls_net_init(&net);
	mbedtls_ssl_init(&ssl);
	mbedtls_ssl_config_init(&config);
	mbedtls_entropy_init(&entropy);
	mbedtls_ctr_drbg_init(&random);
	mbedtls_x509_crt_init(&own);
	mbedtls_x509_crt_init(&root);
	mbedtls_pk_init(&key);
	must("seed", mbedtls_ctr_drbg_seed(&random, mbedtls_entropy_func, &entropy, NULL, 0));
	must("defaults", mbedtls_ssl_config_defaults(&config, MBEDTLS_SSL_IS_SERVER, MBEDTLS_SSL_TRANSPORT_STREAM, MBEDTLS_SSL_PRESET_DEFAULT));
	mbedtls_ssl_conf_rng(&config, mbedtls_ctr_drbg_random, &random);
	mbedtls_ssl_conf_export_keys_ext_cb(&config, keep, NULL);
	must("chain", mbedtls_x509_crt_parse_file(&own, argv[1]));
	must("key", mbedtls_pk_parse_keyfile(&key, argv[2], NULL));
	must("root", mbedtls_x509_crt_parse_file(&root, argv[3]));
	must("identity", mbedtls_ssl_conf_own_cert(&config, &own, &key));
	mbedtls_ssl_conf_ca_chain(&config, &root, NULL);
	mbedtls_ssl_conf_authmode(&config, MBEDTLS_SSL_VERIFY_REQUIRED);
	mbedtls_ssl_conf_ciphersuites(&config, suites);
	must("setup", mbedtls_ssl_setup(&ssl, &config));
	must("listen", mbedtls_net_bind(&listener, "127.0.0.1", "0", MBEDTLS_NET_PROTO_TCP));
	if (getsockname(listener.fd, (struct sockaddr *)&address, &size) != 0)
		return 1;
	printf("PORT %d\n", ntohs(address.sin_port));
	must("accept", mbedtls_net_accept(&listener, &net, NULL, 0, NULL));
	mbedtls_ssl_set_bio(&ssl, &net, mbedtls_net_send, mbedtls_net_recv, NULL);
	do
		code = mbedtls_ssl_handshake(&ssl);
	while (code == MBEDTLS_ERR_SSL_WANT_READ || code == MBEDTLS_ERR_SSL_WANT_WRITE);
	must("handshake", code);
	must("export", mbedtls_ssl_tls_prf(prf, master, sizeof master, label, randoms, sizeof randoms, exported, sizeof exported));
	printf("EXPORT ");
	for (size_t i = 0; i < sizeof exported; i++)
		printf("%02x", exported[i]);
	printf("\n");
	mbedtls_ssl_close_notify(&ssl);
	return 0;
}
