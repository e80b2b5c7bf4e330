package match

// Dig follows path through nested maps, as metadata and claims are made of, and tells whether something is there. An
// empty path leads to m itself.
func Dig(m map[string]any, path []string) (any, bool) {
	var cur any = m
	for _, name := range path {
		in, ok := cur.(map[string]any)
		if !ok {
			return nil, false
		}
		if cur, ok = in[name]; !ok {
			return nil, false
		}
	}
	return cur, true
}
