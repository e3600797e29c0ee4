/* What the library's header offers as macros over a struct whose layout differs between versions, as functions. */

#include <intel-ipsec-mb.h>

/* A manager for this processor, or NULL where the library has nothing better than AVX2 to offer. */
void *ipsx_ipsec_mb_open(void) {
    IMB_MGR *manager = alloc_mb_mgr(0);
    IMB_ARCH arch = IMB_ARCH_NONE;
    if (manager == NULL)
        return NULL;
    init_mb_mgr_auto(manager, &arch);
    if (arch != IMB_ARCH_AVX512) {
        free_mb_mgr(manager);
        return NULL;
    }
    return manager;
}

void ipsx_ipsec_mb_seal(const void *manager, const uint8_t key[32], const uint8_t nonce[12], uint8_t *data,
                        uint64_t len, uint8_t tag[16]) {
    const IMB_MGR *m = manager;
    struct chacha20_poly1305_context_data context;
    IMB_CHACHA20_POLY1305_INIT(m, key, &context, nonce, NULL, 0);
    IMB_CHACHA20_POLY1305_ENC_UPDATE(m, key, &context, data, data, len);
    IMB_CHACHA20_POLY1305_ENC_FINALIZE(m, &context, tag, 16);
}

void ipsx_ipsec_mb_open_into(const void *manager, const uint8_t key[32], const uint8_t nonce[12], const uint8_t *sealed,
                             uint64_t len, uint8_t *plain, uint8_t tag[16]) {
    const IMB_MGR *m = manager;
    struct chacha20_poly1305_context_data context;
    IMB_CHACHA20_POLY1305_INIT(m, key, &context, nonce, NULL, 0);
    IMB_CHACHA20_POLY1305_DEC_UPDATE(m, key, &context, plain, sealed, len);
    IMB_CHACHA20_POLY1305_DEC_FINALIZE(m, &context, tag, 16);
}
