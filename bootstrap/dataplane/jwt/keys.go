package jwt

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/go-jose/go-jose/v4"
)

// keySet is a parsed JWKS. Keys of it that cannot be used are left out.
type keySet []jose.JSONWebKey

// parseKeys reads a JWKS document.
func parseKeys(doc []byte) (keySet, error) {
	var raw struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(doc, &raw); err != nil {
		return nil, fmt.Errorf("jwks: %w", err)
	}
	if raw.Keys == nil {
		return nil, fmt.Errorf("jwks: no keys")
	}
	var out keySet
	for _, k := range raw.Keys {
		var key jose.JSONWebKey
		if key.UnmarshalJSON(k) != nil {
			continue
		}
		if _, symmetric := key.Key.([]byte); !symmetric {
			if !key.Valid() {
				continue
			}
			key = key.Public()
		}
		out = append(out, key)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("jwks: %s", NoValidKeys)
	}
	return out, nil
}

// verify checks the token's signature with every key that its header allows.
func (ks keySet) verify(t *token) Status {
	sig, err := jose.ParseSigned(t.raw, algorithms)
	if err != nil {
		return VerificationFails
	}
	matched := false
	for i := range ks {
		k := &ks[i]
		if t.kid != "" && k.KeyID != "" && k.KeyID != t.kid || k.Algorithm != "" && k.Algorithm != t.alg {
			continue
		}
		matched = true
		if !fits(k.Key, t.alg) {
			continue
		}
		if _, err := sig.Verify(k.Key); err == nil {
			return OK
		}
	}
	if matched {
		return VerificationFails
	}
	return NoKeyMatches
}

// fits reports whether a key of that kind can have made a signature of that algorithm: it keeps a public key from
// being taken for a shared secret.
func fits(key any, alg string) bool {
	switch k := key.(type) {
	case *rsa.PublicKey:
		return strings.HasPrefix(alg, "RS") || strings.HasPrefix(alg, "PS")
	case *ecdsa.PublicKey:
		return alg == map[int]string{256: "ES256", 384: "ES384", 521: "ES512"}[k.Curve.Params().BitSize]
	case ed25519.PublicKey:
		return alg == "EdDSA"
	case []byte:
		return strings.HasPrefix(alg, "HS")
	}
	return false
}
