// Package charts holds the Helm charts of the sample apps, and nothing else. Each
// directory is a chart of its own, whose release and namespace go by the directory's name.
package charts

import "embed"

// FS has one chart per directory: bookinfo, client, httpbin and outside.
//
//go:embed all:bookinfo all:client all:httpbin all:outside
var FS embed.FS
