package jwt

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	jwtv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/encoding/protojson"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var now = time.Unix(1_700_000_000, 0)

// issuer signs tokens of one key.
type issuer struct {
	alg jose.SignatureAlgorithm
	key any
	kid string
}

func (i issuer) sign(t testing.TB, claims map[string]any) string {
	t.Helper()
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: i.alg, Key: jose.JSONWebKey{Key: i.key, KeyID: i.kid}}, nil)
	must(t, err)
	b, err := json.Marshal(claims)
	must(t, err)
	sig, err := s.Sign(b)
	must(t, err)
	out, err := sig.CompactSerialize()
	must(t, err)
	return out
}

func jwks(t testing.TB, list ...issuer) string {
	t.Helper()
	var set jose.JSONWebKeySet
	for _, i := range list {
		k := jose.JSONWebKey{Key: i.key, KeyID: i.kid}
		if _, symmetric := i.key.([]byte); !symmetric {
			k = k.Public()
		}
		set.Keys = append(set.Keys, k)
	}
	b, err := json.Marshal(set)
	must(t, err)
	return string(b)
}

func rsaIssuer(t testing.TB, alg jose.SignatureAlgorithm, kid string) issuer {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	return issuer{alg, k, kid}
}

func compile(t testing.TB, js string, fetch Fetch) *Requirement {
	t.Helper()
	p := &jwtv3.JwtAuthentication{}
	must(t, protojson.Unmarshal([]byte(js), p))
	set, err := Compile(p, fetch)
	must(t, err)
	q, err := set.Requirement(p.GetRules()[0].GetRequires())
	must(t, err)
	return q
}

func quoted(s string) string {
	b, _ := json.Marshal(s)
	return string(b)
}

func bearer(token string) *Request {
	return &Request{Context: context.Background(), Header: http.Header{"Authorization": {"Bearer " + token}}, Path: "/", Now: now}
}

func claims(extra ...any) map[string]any {
	out := map[string]any{"iss": "me", "sub": "you", "exp": now.Unix() + 600}
	for i := 0; i < len(extra); i += 2 {
		if extra[i+1] == nil {
			delete(out, extra[i].(string))
			continue
		}
		out[extra[i].(string)] = extra[i+1]
	}
	return out
}

func TestAlgorithms(t *testing.T) {
	ec := func(c elliptic.Curve) *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(c, rand.Reader)
		must(t, err)
		return k
	}
	rk, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	secret := make([]byte, 64)
	all := []issuer{
		{jose.RS256, rk, ""},
		{jose.RS384, rk, ""},
		{jose.RS512, rk, ""},
		{jose.PS256, rk, ""},
		{jose.PS384, rk, ""},
		{jose.PS512, rk, ""},
		{jose.ES256, ec(elliptic.P256()), ""},
		{jose.ES384, ec(elliptic.P384()), ""},
		{jose.ES512, ec(elliptic.P521()), ""},
		{jose.EdDSA, ed, ""},
		{jose.HS256, secret, ""},
		{jose.HS512, secret, ""},
	}
	for _, i := range all {
		q := compile(t, `{"providers":{"p":{"issuer":"me","localJwks":{"inlineString":`+quoted(jwks(t, i))+`}}},
			"rules":[{"match":{"prefix":"/"},"requires":{"providerName":"p"}}]}`, nil)
		if s := q.Verify(bearer(i.sign(t, claims()))); s != OK {
			t.Errorf("%s: %v", i.alg, s)
		}
		good := i.sign(t, claims())
		head, rest, _ := strings.Cut(good, ".")
		_, sig, _ := strings.Cut(rest, ".")
		forged := base64.RawURLEncoding.EncodeToString([]byte(`{"iss":"me","sub":"other","exp":1800000000}`))
		if s := q.Verify(bearer(head + "." + forged + "." + sig)); s != VerificationFails {
			t.Errorf("%s with another payload: %v", i.alg, s)
		}
	}
}

func TestStatuses(t *testing.T) {
	a, b := rsaIssuer(t, jose.RS256, "a"), rsaIssuer(t, jose.RS256, "b")
	q := compile(t, `{"providers":{"p":{"issuer":"me","audiences":["https://svc.example/","other"],
		"localJwks":{"inlineString":`+quoted(jwks(t, a))+`}}},"rules":[{"match":{"prefix":"/"},"requires":{"providerName":"p"}}]}`, nil)
	aud := func(extra ...any) map[string]any {
		return claims(append([]any{"aud", "http://svc.example"}, extra...)...)
	}
	raw := func(head, body string) string {
		e := base64.RawURLEncoding.EncodeToString
		return e([]byte(head)) + "." + e([]byte(body)) + ".c2ln"
	}
	for name, tc := range map[string]struct {
		token string
		want  Status
	}{
		"good":                        {a.sign(t, aud()), OK},
		"audience in a list":          {a.sign(t, claims("aud", []string{"x", "other"})), OK},
		"within the clock's skew":     {a.sign(t, aud("exp", now.Unix()-59)), OK},
		"expired":                     {a.sign(t, aud("exp", now.Unix()-61)), Expired},
		"expired and forged":          {b.sign(t, aud("exp", now.Unix()-61)), Expired},
		"not yet valid":               {a.sign(t, aud("nbf", now.Unix()+61)), NotYetValid},
		"no expiry":                   {a.sign(t, aud("exp", nil)), OK},
		"other issuer":                {a.sign(t, aud("iss", "them")), UnknownIssuer},
		"no issuer":                   {a.sign(t, aud("iss", nil)), UnknownIssuer},
		"other audience":              {a.sign(t, claims("aud", "x")), AudienceNotAllowed},
		"no audience":                 {a.sign(t, claims()), AudienceNotAllowed},
		"key with another id":         {b.sign(t, aud()), NoKeyMatches},
		"forged with the id of a key": {issuer{jose.RS256, b.key, "a"}.sign(t, aud()), VerificationFails},
		"no token":                    {"", BadFormat},
		"two sections":                {"a.b", BadFormat},
		"header in no base64":         {"a.e30.e30", HeaderBase64},
		"header no JSON":              {raw("x", "{}"), HeaderJSON},
		"no algorithm":                {raw("{}", "{}"), HeaderAlg},
		"algorithm none":              {raw(`{"alg":"none"}`, "{}"), HeaderAlgUnknown},
		"key id no string":            {raw(`{"alg":"RS256","kid":1}`, "{}"), HeaderKid},
		"payload no JSON":             {raw(`{"alg":"RS256"}`, "x"), PayloadJSON},
		"payload a list":              {raw(`{"alg":"RS256"}`, "[]"), PayloadJSON},
		"issuer no string":            {raw(`{"alg":"RS256"}`, `{"iss":1}`), IssNotString},
		"expiry no number":            {raw(`{"alg":"RS256"}`, `{"exp":"x"}`), ExpNotInteger},
		"audience no string":          {raw(`{"alg":"RS256"}`, `{"aud":[1]}`), AudNotString},
		"public key as shared secret": {issuer{jose.HS256, []byte(jwks(t, a)), "a"}.sign(t, aud()), VerificationFails},
	} {
		if got := q.Verify(bearer(tc.token)); got != tc.want {
			t.Errorf("%s: got %q, want %q", name, got, tc.want)
		}
	}
	if got := q.Verify(&Request{Header: http.Header{}, Path: "/", Now: now}); got != Missing {
		t.Errorf("without a token: %v", got)
	}
}

func TestPlaces(t *testing.T) {
	i := rsaIssuer(t, jose.RS256, "")
	token := i.sign(t, claims())
	q := compile(t, `{"providers":{"p":{"issuer":"me","fromHeaders":[{"name":"x-jwt"},{"name":"x-pre","valuePrefix":"tok="}],
		"fromParams":["q"],"fromCookies":["c"],"localJwks":{"inlineString":`+quoted(jwks(t, i))+`}}},
		"rules":[{"match":{"prefix":"/"},"requires":{"providerName":"p"}}]}`, nil)
	for name, tc := range map[string]struct {
		header   http.Header
		path     string
		want     Status
		wantPath string
		left     []string
	}{
		"header":               {http.Header{"X-Jwt": {token}}, "/", OK, "/", nil},
		"header with prefix":   {http.Header{"X-Pre": {`tok="` + token + `", more`}}, "/", OK, "/", nil},
		"header, other prefix": {http.Header{"X-Pre": {"bearer " + token}}, "/", Missing, "/", []string{"X-Pre"}},
		"parameter":            {http.Header{}, "/a?x=1&q=" + token + "&y=2", OK, "/a?x=1&y=2", nil},
		"only parameter":       {http.Header{}, "/a?q=" + token, OK, "/a", nil},
		"cookie":               {http.Header{"Cookie": {"z=1; c=" + token}}, "/", OK, "/", []string{"Cookie"}},
		"the usual place":      {http.Header{"Authorization": {"Bearer " + token}}, "/", Missing, "/", []string{"Authorization"}},
	} {
		r := &Request{Header: tc.header, Path: tc.path, Now: now}
		if got := q.Verify(r); got != tc.want || r.Path != tc.wantPath {
			t.Errorf("%s: %v, path %s", name, got, r.Path)
		}
		var left []string
		for n := range r.Header {
			left = append(left, n)
		}
		if diff := cmp.Diff(tc.left, left); diff != "" {
			t.Errorf("%s: headers left: %s", name, diff)
		}
	}
}

func TestWhatTokensSay(t *testing.T) {
	i := rsaIssuer(t, jose.RS256, "")
	q := compile(t, `{"providers":{"p":{"issuer":"me","forward":true,"forwardPayloadHeader":"x-payload","payloadInMetadata":"payload",
		"normalizePayloadInMetadata":{"spaceDelimitedClaims":["scope"]},"clearRouteCache":true,"headerInMetadata":"head",
		"claimToHeaders":[{"headerName":"x-sub","claimName":"sub"},{"headerName":"x-deep","claimName":"a.b"},
		{"headerName":"x-n","claimName":"n"},{"headerName":"x-list","claimName":"list"},{"headerName":"x-none","claimName":"none"}],
		"localJwks":{"inlineString":`+quoted(jwks(t, i))+`}}},"rules":[{"match":{"prefix":"/"},"requires":{"providerName":"p"}}]}`, nil)
	token := i.sign(t, claims("scope", "read  write", "a", map[string]any{"b": true}, "n", 7, "list", []string{"x"}))
	r := bearer(token)
	r.Header["X-None"], r.Header["X-Payload"] = []string{"forged"}, []string{"forged"}
	if s := q.Verify(r); s != OK {
		t.Fatal(s)
	}
	want := http.Header{
		"Authorization": {"Bearer " + token}, "X-Payload": {strings.Split(token, ".")[1]}, "X-Sub": {"you"}, "X-Deep": {"true"},
		"X-N": {"7"}, "X-List": {"WyJ4Il0="},
	}
	if diff := cmp.Diff(want, r.Header); diff != "" {
		t.Errorf("headers: %s", diff)
	}
	wantMeta := map[string]any{
		"head": map[string]any{"alg": "RS256"},
		"payload": map[string]any{
			"iss": "me", "sub": "you", "exp": float64(now.Unix() + 600), "scope": []any{"read", "write"},
			"a": map[string]any{"b": true}, "n": 7.0, "list": []any{"x"},
		},
	}
	if diff := cmp.Diff(wantMeta, r.Metadata); diff != "" {
		t.Errorf("metadata: %s", diff)
	}
	if !r.Reroute {
		t.Error("the route is not chosen anew")
	}
}

// istioTwo is what istiod makes of two issuers.
const istioTwo = `{"providers":{"origins-0":{"issuer":"a","localJwks":{"inlineString":A}},"origins-1":{"issuer":"b",
	"localJwks":{"inlineString":B}}},"rules":[{"match":{"prefix":"/"},"requires":{"requiresAny":{"requirements":[
	{"providerName":"origins-0"},{"providerName":"origins-1"},{"requiresAll":{"requirements":[
	{"requiresAny":{"requirements":[{"providerName":"origins-0"},{"allowMissing":{}}]}},
	{"requiresAny":{"requirements":[{"providerName":"origins-1"},{"allowMissing":{}}]}}]}}]}}}]}`

func TestRequirements(t *testing.T) {
	a, b := rsaIssuer(t, jose.RS256, ""), rsaIssuer(t, jose.RS256, "")
	two := strings.NewReplacer(":A}", ":"+quoted(jwks(t, a))+"}", ":B}", ":"+quoted(jwks(t, b))+"}").Replace(istioTwo)
	one := `{"providers":{"p":{"issuer":"a","localJwks":{"inlineString":` + quoted(jwks(t, a)) + `}}},"rules":[{"match":{"prefix":"/"},
		"requires":REQ}]}`
	optional := strings.Replace(one, "REQ", `{"requiresAny":{"requirements":[{"allowMissing":{}},{"providerName":"p"}]}}`, 1)
	lax := strings.Replace(one, "REQ", `{"requiresAny":{"requirements":[{"providerName":"p"},{"allowMissingOrFailed":{}}]}}`, 1)
	expired := claims("iss", "a", "exp", now.Unix()-1000)
	for name, tc := range map[string]struct {
		config, token string
		want          Status
	}{
		"two: first":                {two, a.sign(t, claims("iss", "a")), OK},
		"two: second":               {two, b.sign(t, claims("iss", "b")), OK},
		"two: none":                 {two, "", OK},
		"two: expired":              {two, a.sign(t, expired), Expired},
		"two: wrong key":            {two, b.sign(t, claims("iss", "a")), VerificationFails},
		"two: unknown issuer":       {two, a.sign(t, claims("iss", "c")), UnknownIssuer},
		"optional: none":            {optional, "", OK},
		"optional: good":            {optional, a.sign(t, claims("iss", "a")), OK},
		"optional: expired":         {optional, a.sign(t, expired), Expired},
		"optional: unknown issuer":  {optional, a.sign(t, claims("iss", "c")), UnknownIssuer},
		"optional: no token at all": {optional, "garbage", BadFormat},
		"lax: expired":              {lax, a.sign(t, expired), OK},
	} {
		r := bearer(tc.token)
		if tc.token == "" {
			delete(r.Header, "Authorization")
		}
		if got := compile(t, tc.config, nil).Verify(r); got != tc.want {
			t.Errorf("%s: got %q, want %q", name, got, tc.want)
		}
	}
}

func TestRefusedConfiguration(t *testing.T) {
	for js, want := range map[string]string{
		`{"providers":{"p":{}}}`:                "jwks_source_specifier",
		`{"providers":{"p":{"remoteJwks":{}}}}`: "http_uri",
		`{"providers":{"p":{"remoteJwks":{"httpUri":{"uri":"u","cluster":"c"},"retryPolicy":{"retryOn":"5xx"}}}}}`:                 "retry_on",
		`{"providers":{"p":{"localJwks":{"inlineString":""}}},"rules":[{"match":{"prefix":"/"},"requires":{"providerName":"x"}}]}`: "not configured",
	} {
		p := &jwtv3.JwtAuthentication{}
		must(t, protojson.Unmarshal([]byte(js), p))
		set, err := Compile(p, nil)
		for _, r := range p.GetRules() {
			if err == nil {
				_, err = set.Requirement(r.GetRequires())
			}
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", js, err)
		}
	}
}

func TestFetchedKeys(t *testing.T) {
	i := rsaIssuer(t, jose.RS256, "")
	doc := jwks(t, i)
	synctest.Test(t, func(t *testing.T) {
		fetched, broken := 0, false
		fetch := func(context.Context, *corev3.HttpUri) ([]byte, error) {
			fetched++
			time.Sleep(100 * time.Millisecond)
			if broken {
				return nil, errors.New("down")
			}
			return []byte(doc), nil
		}
		q := compile(t, `{"providers":{"p":{"issuer":"me","remoteJwks":{"httpUri":{"uri":"http://k/x","cluster":"c","timeout":"1s"},
			"cacheDuration":"300s"}}},"rules":[{"match":{"prefix":"/"},"requires":{"providerName":"p"}}]}`, fetch)
		try := func() Status {
			r := bearer(i.sign(t, claims("exp", nil)))
			r.Now = time.Now()
			return q.Verify(r)
		}
		if fetched != 0 {
			t.Errorf("%d fetches ahead", fetched)
		}
		results := make(chan Status, 2)
		for range 2 {
			go func() { results <- try() }()
		}
		if a, b := <-results, <-results; a != OK || b != OK || fetched != 1 {
			t.Errorf("two at once: %v %v after %d fetches", a, b, fetched)
		}
		time.Sleep(299 * time.Second)
		if s := try(); s != OK || fetched != 1 {
			t.Errorf("from the cache: %v after %d fetches", s, fetched)
		}
		time.Sleep(2 * time.Second)
		broken = true
		if s := try(); s != FetchFailed || fetched != 2 {
			t.Errorf("old keys, server down: %v after %d fetches", s, fetched)
		}
		broken = false
		if s := try(); s != OK || fetched != 3 {
			t.Errorf("server back: %v after %d fetches", s, fetched)
		}
	})
}

func TestKeysFetchedAhead(t *testing.T) {
	i := rsaIssuer(t, jose.RS256, "")
	doc := jwks(t, i)
	synctest.Test(t, func(t *testing.T) {
		var fetches atomic.Int64
		fetch := func(context.Context, *corev3.HttpUri) ([]byte, error) {
			if n := fetches.Add(1); n == 1 || n == 3 {
				return nil, errors.New("down")
			}
			return []byte(doc), nil
		}
		p := &jwtv3.JwtAuthentication{}
		must(t, protojson.Unmarshal([]byte(`{"providers":{"p":{"issuer":"me","remoteJwks":{"httpUri":{"uri":"http://k/x","cluster":"c",
			"timeout":"1s"},"cacheDuration":"60s","asyncFetch":{},"retryPolicy":{"numRetries":1}}}}}`), p))
		set, err := Compile(p, fetch)
		must(t, err)
		if len(set.Waits()) != 1 {
			t.Fatalf("%d waits", len(set.Waits()))
		}
		<-set.Waits()[0]
		q, err := set.Requirement(&jwtv3.JwtRequirement{RequiresType: &jwtv3.JwtRequirement_ProviderName{ProviderName: "p"}})
		must(t, err)
		try := func() Status {
			r := bearer(i.sign(t, claims("exp", nil)))
			r.Now = time.Now()
			defer synctest.Wait()
			return q.Verify(r)
		}
		if s := try(); s != OK || fetches.Load() != 2 {
			t.Errorf("after a retry: %v, %d fetches", s, fetches.Load())
		}
		time.Sleep(61 * time.Second)
		if s := try(); s != OK || fetches.Load() != 3 {
			t.Errorf("old keys serve while newer ones are fetched: %v, %d fetches", s, fetches.Load())
		}
		time.Sleep(2 * time.Second)
		if fetches.Load() != 4 {
			t.Errorf("%d fetches after the retry", fetches.Load())
		}
	})
}
