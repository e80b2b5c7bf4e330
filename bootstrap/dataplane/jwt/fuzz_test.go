package jwt

import (
	"net/http"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

// FuzzVerify hands anything to a provider as a token: nothing but a signed token passes, and nothing panics.
func FuzzVerify(f *testing.F) {
	i := rsaIssuer(f, jose.RS256, "k")
	good := i.sign(f, claims())
	q := compile(f, `{"providers":{"p":{"issuer":"me","payloadInMetadata":"p","fromCookies":["c"],"fromParams":["q"],
		"fromHeaders":[{"name":"a","valuePrefix":"B "}],"normalizePayloadInMetadata":{"spaceDelimitedClaims":["scope"]},
		"claimToHeaders":[{"headerName":"x","claimName":"a.b"}],"localJwks":{"inlineString":`+quoted(jwks(f, i))+`}}},
		"rules":[{"match":{"prefix":"/"},"requires":{"providerName":"p"}}]}`, nil)
	for _, s := range []string{good, "", ".", "..", "e30.e30.e30", "eyJhbGciOiJSUzI1NiJ9.eyJhdWQiOltdfQ.", `"B ` + good} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r := &Request{Context: t.Context(), Header: http.Header{"A": {"B " + s}, "Cookie": {"c=" + s}}, Path: "/?q=" + s, Now: now}
		if q.Verify(r) == OK && span(s) != good {
			t.Errorf("%q passes", s)
		}
	})
}

// FuzzKeys reads anything as a key set.
func FuzzKeys(f *testing.F) {
	f.Add([]byte(`{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"},{"kty":"oct","k":"AA"},{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}]}`))
	f.Add([]byte(`{"keys":null}`))
	f.Fuzz(func(_ *testing.T, b []byte) {
		if set, err := parseKeys(b); err == nil {
			_ = set.verify(&token{raw: "e30.e30.e30", alg: "RS256"})
		}
	})
}
