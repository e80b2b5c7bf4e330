package jwt

import "strings"

// Status is what became of the verification of a token, in Envoy's order of words.
type Status int

// Statuses.
const (
	OK Status = iota
	Missing
	NotYetValid
	Expired
	BadFormat
	HeaderBase64
	HeaderJSON
	HeaderAlg
	HeaderAlgUnknown
	HeaderKid
	PayloadBase64
	PayloadJSON
	IssNotString
	SubNotString
	IatNotInteger
	NbfNotInteger
	ExpNotInteger
	JtiNotString
	AudNotString
	SignatureBase64
	UnknownIssuer
	AudienceNotAllowed
	SubjectNotAllowed
	MissingExpiration
	LifetimeTooLong
	VerificationFails
	NoKeyMatches
	NoValidKeys
	FetchFailed
)

var texts = [...]string{
	OK:                 "OK",
	Missing:            "Jwt is missing",
	NotYetValid:        "Jwt not yet valid",
	Expired:            "Jwt is expired",
	BadFormat:          "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections",
	HeaderBase64:       "Jwt header is an invalid Base64url encoded",
	HeaderJSON:         "Jwt header is an invalid JSON",
	HeaderAlg:          "Jwt header [alg] field is required and must be a string",
	HeaderAlgUnknown:   "Jwt header [alg] is not supported",
	HeaderKid:          "Jwt header [kid] field is not a string",
	PayloadBase64:      "Jwt payload is an invalid Base64url encoded",
	PayloadJSON:        "Jwt payload is an invalid JSON",
	IssNotString:       "Jwt payload [iss] field is not a string",
	SubNotString:       "Jwt payload [sub] field is not a string",
	IatNotInteger:      "Jwt payload [iat] field is not an integer",
	NbfNotInteger:      "Jwt payload [nbf] field is not an integer",
	ExpNotInteger:      "Jwt payload [exp] field is not an integer",
	JtiNotString:       "Jwt payload [jti] field is not a string",
	AudNotString:       "Jwt payload [aud] field is not a string or string list",
	SignatureBase64:    "Jwt signature is an invalid Base64url encoded",
	UnknownIssuer:      "Jwt issuer is not configured",
	AudienceNotAllowed: "Audiences in Jwt are not allowed",
	SubjectNotAllowed:  "Subject in Jwt is not allowed",
	MissingExpiration:  "Jwt must have an expiration",
	LifetimeTooLong:    "Jwt lifetime exceeds the maximum",
	VerificationFails:  "Jwt verification fails",
	NoKeyMatches:       "Jwks doesn't have key to match kid or alg from Jwt",
	NoValidKeys:        "Jwks doesn't have any valid public key",
	FetchFailed:        "Jwks remote fetch is failed",
}

// String gives the words that the client reads.
func (s Status) String() string { return texts[s] }

// Details gives the response code details of a request that was refused with s.
func (s Status) Details() string {
	return "jwt_authn_access_denied{" + strings.ReplaceAll(s.String(), " ", "_") + "}"
}

// Forbidden reports whether s stands for a good token that does not open this door: 403 and not 401.
func (s Status) Forbidden() bool { return s == AudienceNotAllowed }
