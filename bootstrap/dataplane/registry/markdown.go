package registry

import (
	"fmt"
	"strings"
)

// Markdown renders the table of extensions as a document.
func Markdown() string {
	var b strings.Builder
	b.WriteString("# Extensions\n\n" +
		"What the data plane does with the types of extensions that istiod can send. This file is generated from\n" +
		"registry.Entries; `go test ./bootstrap/dataplane -run TestExtensions -update` writes it anew. The test also hands\n" +
		"one extension of each type to the data plane and compares what becomes of it.\n\n" +
		"- supported: does what the configuration says; fields that are not supported are refused by name.\n" +
		"- ignored: accepted without effect.\n" +
		"- NACKed: the whole resource is refused, with the type or the field that holds it in the message.\n\n" +
		"Types that are not listed are NACKed, but for HTTP filters marked as optional, which are left out as in\n" +
		"Envoy. What an extension is made of, as a compressor of its library, shares its fate.\n")
	kind := ""
	for _, e := range Entries() {
		if e.Kind != kind {
			kind = e.Kind
			fmt.Fprintf(&b, "\n## %s\n\n| Type | Name in Istio | Status | Note |\n| --- | --- | --- | --- |\n", strings.ToUpper(kind[:1])+kind[1:])
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", strings.TrimPrefix(e.TypeURL, prefix), e.Name, shown(e.Status), e.Note)
	}
	return b.String()
}

func shown(s Status) string {
	if s == Refused {
		return "NACKed"
	}
	return string(s)
}
