package labs

// Catalog is a set of labs with distinct ids, in order of sources and of folder names.
type Catalog []*Lab

// Lab returns the lab with that id.
func (c Catalog) Lab(id string) (*Lab, bool) {
	for _, l := range c {
		if l.ID == id {
			return l, true
		}
	}
	return nil, false
}
