// Package content carries the labs that come with ropes. It holds files and nothing else.
package content

import "embed"

// FS holds one folder per lab.
//
//go:embed *
var FS embed.FS
