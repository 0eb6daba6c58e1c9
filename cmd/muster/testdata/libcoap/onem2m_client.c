/* A oneM2M client on libcoap: sends its requests over one DTLS session, one after
 * the other, and prints a line for each response.
 *
 *   onem2m_client PORT SERVER cert CHAIN KEY ROOT   FROM REQUEST...
 *   onem2m_client PORT SERVER psk IDENTITY HEXKEY   FROM REQUEST...
 *
 * A REQUEST is four arguments: METHOD PATH TYPE BODY, where TYPE 0 and an empty
 * BODY are absent, and a PATH of @ stands for the last Location-Path. */
#include <arpa/inet.h>
#include <coap3/coap.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OPTION_TY = 267, OPTION_FR = 279, OPTION_RQI = 283, OPTION_RSC = 307, JSON = 50, PATIENCE_MS = 30000 };

static char location[256];
static int answered, failed;

static void fail(const char *what) {
  fprintf(stderr, "%s\n", what);
  exit(1);
}

static coap_response_t on_response(coap_session_t *session, const coap_pdu_t *sent, const coap_pdu_t *received,
                                   const coap_mid_t mid) {
  coap_opt_iterator_t iterator;
  coap_opt_t *option;
  const uint8_t *data;
  size_t length, offset, total;
  coap_pdu_code_t code = coap_pdu_get_code(received);
  unsigned status = 0;
  char identifier[256] = "", path[sizeof location] = "";
  (void)session, (void)sent, (void)mid;

  coap_option_iterator_init(received, &iterator, COAP_OPT_ALL);
  while ((option = coap_option_next(&iterator))) {
    const uint8_t *value = coap_opt_value(option);
    int size = (int)coap_opt_length(option);
    if (iterator.number == OPTION_RSC)
      status = coap_decode_var_bytes(value, size);
    else if (iterator.number == OPTION_RQI)
      snprintf(identifier, sizeof identifier, "%.*s", size, value);
    else if (iterator.number == COAP_OPTION_LOCATION_PATH)
      snprintf(path + strlen(path), sizeof path - strlen(path), "%s%.*s", *path ? "/" : "", size, value);
  }
  if (*path)
    memcpy(location, path, sizeof location);
  if (!coap_get_data_large(received, &length, &data, &offset, &total))
    length = 0;
  printf("%d.%02d %u %s %.*s\n", code >> 5, code & 31, status, identifier, (int)length, (const char *)data);
  fflush(stdout);
  answered = 1;
  return COAP_RESPONSE_OK;
}

static void on_nack(coap_session_t *session, const coap_pdu_t *sent, const coap_nack_reason_t reason, const coap_mid_t mid) {
  (void)session, (void)sent, (void)mid;
  fprintf(stderr, "no answer: reason %d\n", reason);
  failed = 1;
}

static void number(coap_optlist_t **options, uint16_t option, unsigned value) {
  uint8_t octets[4];
  coap_insert_optlist(options, coap_new_optlist(option, coap_encode_var_safe(octets, sizeof octets, value), octets));
}

static void text(coap_optlist_t **options, uint16_t option, const char *value) {
  coap_insert_optlist(options, coap_new_optlist(option, strlen(value), (const uint8_t *)value));
}

static coap_pdu_code_t method(const char *name) {
  if (!strcmp(name, "POST")) return COAP_REQUEST_CODE_POST;
  if (!strcmp(name, "GET")) return COAP_REQUEST_CODE_GET;
  if (!strcmp(name, "PUT")) return COAP_REQUEST_CODE_PUT;
  if (!strcmp(name, "DELETE")) return COAP_REQUEST_CODE_DELETE;
  fail("an unknown method");
  return 0;
}

static void request(coap_context_t *context, coap_session_t *session, const char *from, char **words, int count) {
  coap_pdu_t *pdu = coap_new_pdu(COAP_MESSAGE_CON, method(words[0]), session);
  coap_optlist_t *options = NULL;
  char path[256], identifier[16];
  uint8_t token[8];
  size_t token_length;

  coap_session_new_token(session, &token_length, token);
  coap_add_token(pdu, token_length, token);
  snprintf(path, sizeof path, "%s", strcmp(words[1], "@") ? words[1] : location);
  for (char *segment = strtok(path, "/"); segment; segment = strtok(NULL, "/"))
    text(&options, COAP_OPTION_URI_PATH, segment);
  text(&options, OPTION_FR, from);
  snprintf(identifier, sizeof identifier, "r%d", count);
  text(&options, OPTION_RQI, identifier);
  if (atoi(words[2]))
    number(&options, OPTION_TY, atoi(words[2]));
  if (*words[3])
    number(&options, COAP_OPTION_CONTENT_FORMAT, JSON);
  coap_add_optlist_pdu(pdu, &options);
  coap_delete_optlist(options);
  if (*words[3])
    coap_add_data_large_request(session, pdu, strlen(words[3]), (const uint8_t *)words[3], NULL, NULL);
  answered = 0;
  if (coap_send(session, pdu) == COAP_INVALID_MID)
    fail("the request cannot be sent");
  for (int waited = 0; !answered && !failed;) {
    int spent = coap_io_process(context, 1000);
    if (spent < 0 || (waited += spent) > PATIENCE_MS)
      fail("no answer in time");
  }
  if (failed)
    exit(1);
}

int main(int argc, char **argv) {
  coap_context_t *context;
  coap_session_t *session;
  coap_address_t server;
  coap_dtls_pki_t pki = {.version = COAP_DTLS_PKI_SETUP_VERSION};
  coap_dtls_cpsk_t psk = {.version = COAP_DTLS_CPSK_SETUP_VERSION};
  uint8_t key[32];
  int next, count = 0;

  if (argc < 7)
    fail("too few arguments");
  coap_startup();
  coap_set_log_level(LOG_WARNING);
  coap_dtls_set_log_level(LOG_WARNING);
  coap_address_init(&server);
  server.addr.sin.sin_family = AF_INET;
  server.addr.sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  server.addr.sin.sin_port = htons(atoi(argv[1]));
  server.size = sizeof server.addr.sin;

  context = coap_new_context(NULL);
  coap_context_set_block_mode(context, COAP_BLOCK_USE_LIBCOAP | COAP_BLOCK_SINGLE_BODY);
  /* Critical options that are not registered make libcoap drop an answer. It has
   * room for two above 255, so the requests have no RVI, and then the answers
   * have none. */
  coap_register_option(context, OPTION_RSC);
  coap_register_option(context, OPTION_RQI);
  coap_register_response_handler(context, on_response);
  coap_register_nack_handler(context, on_nack);

  if (!strcmp(argv[3], "cert") && argc > 7) {
    pki.verify_peer_cert = 1;
    pki.cert_chain_validation = 1;
    pki.cert_chain_verify_depth = 5;
    pki.client_sni = argv[2];
    pki.pki_key.key_type = COAP_PKI_KEY_PEM;
    pki.pki_key.key.pem.public_cert = argv[4];
    pki.pki_key.key.pem.private_key = argv[5];
    pki.pki_key.key.pem.ca_file = argv[6];
    if (!coap_context_set_pki_root_cas(context, argv[6], NULL)) /* of OpenSSL, which takes none from ca_file here */
      fail("the root cannot be read");
    session = coap_new_client_session_pki(context, NULL, &server, COAP_PROTO_DTLS, &pki);
    next = 7;
  } else {
    for (size_t i = 0; i < sizeof key; i++)
      if (sscanf(argv[5] + 2 * i, "%2hhx", &key[i]) != 1)
        fail("the key is not 64 hexadecimal digits");
    psk.client_sni = argv[2];
    psk.psk_info.identity.s = (const uint8_t *)argv[4];
    psk.psk_info.identity.length = strlen(argv[4]);
    psk.psk_info.key.s = key;
    psk.psk_info.key.length = sizeof key;
    session = coap_new_client_session_psk2(context, NULL, &server, COAP_PROTO_DTLS, &psk);
    next = 6;
  }
  if (!session)
    fail("there is no session");
  for (int i = next + 1; i + 3 < argc; i += 4)
    request(context, session, argv[next], argv + i, ++count);
  coap_session_release(session);
  coap_free_context(context);
  coap_cleanup();
  return 0;
}
