package jwt

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"math"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// algorithms are those that Envoy verifies.
var algorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512,
	jose.HS256, jose.HS384, jose.HS512, jose.EdDSA,
}

// token is a parsed token; its signature is not looked at yet.
type token struct {
	raw      string
	payload  string // the second section as it stands
	alg, kid string
	header   map[string]any
	claims   map[string]any
	iss, sub string
	aud      []string
	nbf, exp int64 // seconds, 0 for none
}

// parse takes a compact serialisation apart.
func parse(raw string) (*token, Status) {
	parts := strings.Split(raw, ".")
	if len(parts) != 3 {
		return nil, BadFormat
	}
	t := &token{raw: raw, payload: parts[1]}
	head, err := decode(parts[0])
	if err != nil {
		return nil, HeaderBase64
	}
	if t.header = object(head); t.header == nil {
		return nil, HeaderJSON
	}
	var ok bool
	if t.alg, ok = t.header["alg"].(string); !ok {
		return nil, HeaderAlg
	}
	if !implemented(t.alg) {
		return nil, HeaderAlgUnknown
	}
	if kid, set := t.header["kid"]; set {
		if t.kid, ok = kid.(string); !ok {
			return nil, HeaderKid
		}
	}
	body, err := decode(parts[1])
	if err != nil {
		return nil, PayloadBase64
	}
	if t.claims = object(body); t.claims == nil {
		return nil, PayloadJSON
	}
	if s := t.registered(); s != OK {
		return nil, s
	}
	if _, err := decode(parts[2]); err != nil {
		return nil, SignatureBase64
	}
	return t, OK
}

// registered reads the claims that RFC 7519 gives a meaning.
func (t *token) registered() Status {
	text := func(name string, into *string, bad Status) Status {
		v, set := t.claims[name]
		if !set {
			return OK
		}
		s, ok := v.(string)
		if !ok {
			return bad
		}
		*into = s
		return OK
	}
	number := func(name string, into *int64, bad Status) Status {
		v, set := t.claims[name]
		if !set {
			return OK
		}
		n, ok := v.(float64)
		if !ok || n < 0 || n > math.MaxInt64/2 {
			return bad
		}
		*into = int64(n)
		return OK
	}
	var iat int64
	var jti string
	for _, s := range []Status{
		text("iss", &t.iss, IssNotString), text("sub", &t.sub, SubNotString), number("iat", &iat, IatNotInteger),
		number("nbf", &t.nbf, NbfNotInteger), number("exp", &t.exp, ExpNotInteger), text("jti", &jti, JtiNotString),
	} {
		if s != OK {
			return s
		}
	}
	switch aud := t.claims["aud"].(type) {
	case nil:
		if _, set := t.claims["aud"]; set {
			return AudNotString
		}
	case string:
		t.aud = []string{aud}
	case []any:
		for _, a := range aud {
			s, ok := a.(string)
			if !ok {
				return AudNotString
			}
			t.aud = append(t.aud, s)
		}
	default:
		return AudNotString
	}
	return OK
}

// timely holds the token's times against now.
func (t *token) timely(now time.Time, skew int64) Status {
	at := now.Unix()
	switch {
	case t.nbf > at+skew:
		return NotYetValid
	case t.exp > 0 && at > t.exp+skew:
		return Expired
	}
	return OK
}

func decode(s string) ([]byte, error) {
	return base64.RawURLEncoding.DecodeString(strings.TrimRight(s, "="))
}

// object parses one JSON object and nothing after it; anything else gives nil.
func object(b []byte) map[string]any {
	var out map[string]any
	d := json.NewDecoder(bytes.NewReader(b))
	if d.Decode(&out) != nil || d.More() {
		return nil
	}
	return out
}

func implemented(alg string) bool {
	for _, a := range algorithms {
		if string(a) == alg {
			return true
		}
	}
	return false
}
