//go:build payload

package payload

import _ "embed" // the payload

//go:embed payload.tar.zst
var archive []byte

//go:embed payload.json
var manifest []byte
