package e2e

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"testing"
)

// signer issues tokens.
type signer struct {
	t   *testing.T
	key *rsa.PrivateKey
}

func newSigner(t *testing.T) *signer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	return &signer{t, key}
}

func (s *signer) jwks() string {
	enc := base64.RawURLEncoding.EncodeToString
	return fmt.Sprintf(`{"keys":[{"kty":"RSA","kid":"k","alg":"RS256","use":"sig","n":%q,"e":%q}]}`,
		enc(s.key.N.Bytes()), enc(big.NewInt(int64(s.key.E)).Bytes()))
}

func (s *signer) token(claims map[string]any) string {
	s.t.Helper()
	body, err := json.Marshal(claims)
	must(s.t, err)
	text := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"RS256","kid":"k","typ":"JWT"}`)) + "." + base64.RawURLEncoding.EncodeToString(body)
	sum := sha256.Sum256([]byte(text))
	sig, err := rsa.SignPKCS1v15(rand.Reader, s.key, crypto.SHA256, sum[:])
	must(s.t, err)
	return text + "." + base64.RawURLEncoding.EncodeToString(sig)
}

func TestRoutesByClaims(t *testing.T) {
	s := newSigner(t)
	w, plain, server, gw := gatewayWorld(t, `
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: jwt, namespace: ns}
spec:
  selector: {matchLabels: {app: gw}}
  jwtRules: [{issuer: me, jwks: '`+s.jwks()+`'}]
`, nil)
	w.apply(`
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web, namespace: ns}
spec:
  hosts: ["*"]
  gateways: [gw]
  http:
  - match: [{headers: {"@request.auth.claims.group": {exact: admin}}}]
    headers: {response: {set: {x-route: admin}}}
    route: [{destination: {host: ` + here + `, port: {number: 8000}}}]
  - match: [{headers: {"@request.auth.claims[nested][name]": {prefix: a}}}]
    headers: {response: {set: {x-route: nested}}}
    route: [{destination: {host: ` + here + `, port: {number: 8000}}}]
  - match: [{withoutHeaders: {"@request.auth.claims.group": {exact: guest}}}]
    headers: {response: {set: {x-route: others}}}
    route: [{destination: {host: ` + here + `, port: {number: 8000}}}]
  - directResponse: {status: 403}
`)
	for _, tc := range []struct {
		claims map[string]any
		want   string
	}{
		{nil, "200 others"},
		{map[string]any{"group": "admin"}, "200 admin"},
		{map[string]any{"group": []string{"dev", "admin"}}, "200 admin"},
		{map[string]any{"group": "dev", "nested": map[string]any{"name": "abc"}}, "200 nested"},
		{map[string]any{"group": "guest"}, "403 "},
		{map[string]any{"group": "dev"}, "200 others"},
	} {
		o := atGateway("/claims")
		if tc.claims != nil {
			tc.claims["iss"] = "me"
			o.Header["Authorization"] = "Bearer " + s.token(tc.claims)
		}
		eventually(t, plain, fmt.Sprintf("claims %v", tc.claims), func() error {
			got := plain.send(o)
			if text := fmt.Sprint(got.Status, " ", got.Header.Get("X-Route")); text != tc.want {
				return fmt.Errorf("%s, want %s: %s", text, tc.want, got.Body)
			}
			return nil
		})
	}
	noNacks(t, server, gw)
}
