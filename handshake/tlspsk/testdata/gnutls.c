#include "peer.h"
#include <gnutls/gnutls.h>

static gnutls_session_t session;

static int find(gnutls_session_t s, const char *name, gnutls_datum_t *found)
{
	if (strcmp(name, identity))
		return -1;
	found->data = gnutls_malloc(key_size);
	memcpy(found->data, key, key_size);
	found->size = key_size;
	return 0;
}

static void export(const char *name, const char *label, const char *context)
{
	unsigned char out[EXPORT_SIZE];
	int r = gnutls_prf_rfc5705(session, strlen(label), label, context ? strlen(context) : 0, context, sizeof out,
				   (char *)out);
	if (r)
		fail("export", r);
	print_export(name, out);
}

static int get(void *p, size_t n) { return gnutls_record_recv(session, p, n); }
static int put(const void *p, size_t n) { return gnutls_record_send(session, p, n); }

int main(int argc, char **argv)
{
	int fd = prepare(argc, argv), r;
	gnutls_psk_client_credentials_t client;
	gnutls_psk_server_credentials_t server;
	gnutls_datum_t datum = {key, key_size};
	char priority[256];

	snprintf(priority, sizeof priority, "NONE:+VERS-TLS1.2:+PSK:+COMP-NULL:+SIGN-ALL:+GROUP-ALL:%s%s",
		 use_gcm ? "+AES-128-GCM:+AEAD" : "+AES-128-CBC:+SHA256", use_etm ? "" : ":%NO_ETM");
	gnutls_init(&session, is_client ? GNUTLS_CLIENT : GNUTLS_SERVER);
	if ((r = gnutls_priority_set_direct(session, priority, NULL)))
		fail("priority", r);
	if (is_client) {
		gnutls_psk_allocate_client_credentials(&client);
		gnutls_psk_set_client_credentials(client, identity, &datum, GNUTLS_PSK_KEY_RAW);
		gnutls_credentials_set(session, GNUTLS_CRD_PSK, client);
		gnutls_server_name_set(session, GNUTLS_NAME_DNS, server_name, strlen(server_name));
	} else {
		gnutls_psk_allocate_server_credentials(&server);
		gnutls_psk_set_server_credentials_function(server, find);
		gnutls_credentials_set(session, GNUTLS_CRD_PSK, server);
	}
	gnutls_transport_set_int(session, fd);
	do
		r = gnutls_handshake(session);
	while (r < 0 && !gnutls_error_is_fatal(r));
	if (r)
		fail("handshake", r);
	export("none", LABEL_NONE, NULL);
	export("empty", LABEL_EMPTY, "");
	export("context", LABEL_CONTEXT, CONTEXT);
	converse(get, put);
	gnutls_bye(session, GNUTLS_SHUT_WR);
	finished();
	return 0;
}
