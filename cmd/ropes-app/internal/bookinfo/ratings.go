package bookinfo

import (
	"encoding/json"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"
)

// stars is a product's ratings as ratings answers them: stars by reviewer.
type stars struct {
	ID      int            `json:"id"`
	Ratings map[string]int `json:"ratings"`
}

// ratings keeps in memory what was posted.
type ratings struct {
	version string
	start   time.Time
	mu      sync.Mutex
	posted  map[int]map[string]int
}

// delayed is how long v-delayed takes over every other answer.
const delayed = 7 * time.Second

// Ratings serves /ratings/{id} and /health. The versions v-faulty, v-delayed,
// v-unavailable and v-unhealthy fail as the package documentation of ropes-app says.
func Ratings(cfg Config) http.Handler {
	s := &ratings{version: cfg.Version, start: time.Now(), posted: map[int]map[string]int{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
		if s.version == "v-unhealthy" && s.down(15*time.Minute) {
			answer(w, http.StatusInternalServerError, map[string]string{"status": "Ratings is not healthy"})
			return
		}
		health("Ratings")(w, nil)
	})
	mux.HandleFunc("GET /ratings/{id}", s.get)
	mux.HandleFunc("POST /ratings/{id}", s.post)
	return mux
}

// down is true in every second period since the start.
func (s *ratings) down(period time.Duration) bool {
	return time.Since(s.start)/period%2 == 1
}

func (s *ratings) get(w http.ResponseWriter, r *http.Request) {
	id, ok := productID(w, r)
	if !ok {
		return
	}
	unavailable := false
	switch s.version {
	case "v-unavailable":
		unavailable = s.down(time.Minute)
	case "v-unhealthy":
		unavailable = s.down(15 * time.Minute)
	case "v-faulty":
		unavailable = rand.N(2) == 0
	case "v-delayed":
		if rand.N(2) == 0 {
			select {
			case <-time.After(delayed):
			case <-r.Context().Done():
				return
			}
		}
	}
	if unavailable {
		refuse(w, http.StatusServiceUnavailable, "Service unavailable")
		return
	}
	s.mu.Lock()
	found, ok := s.posted[id]
	found = maps.Clone(found)
	s.mu.Unlock()
	if !ok {
		found = map[string]int{"Reviewer1": 5, "Reviewer2": 4}
	}
	answer(w, http.StatusOK, stars{ID: id, Ratings: found})
}

func (s *ratings) post(w http.ResponseWriter, r *http.Request) {
	id, ok := productID(w, r)
	if !ok {
		return
	}
	var posted map[string]int
	if err := json.NewDecoder(io.LimitReader(r.Body, maxAnswer)).Decode(&posted); err != nil {
		refuse(w, http.StatusBadRequest, "please provide valid ratings JSON")
		return
	}
	s.mu.Lock()
	s.posted[id] = posted
	s.mu.Unlock()
	answer(w, http.StatusOK, stars{ID: id, Ratings: posted})
}
