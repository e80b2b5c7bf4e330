//go:build !payload

package payload

var archive, manifest []byte
