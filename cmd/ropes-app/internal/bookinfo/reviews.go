package bookinfo

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// reviewList is what reviews answers.
type reviewList struct {
	ID      string   `json:"id"`
	Pod     string   `json:"podname"`
	Cluster string   `json:"clustername"`
	Version string   `json:"version"`
	Reviews []review `json:"reviews"`
}

type review struct {
	Reviewer string  `json:"reviewer"`
	Text     string  `json:"text"`
	Rating   *rating `json:"rating,omitempty"`
}

// rating is the stars of one review, or why there are none.
type rating struct {
	Stars int    `json:"stars,omitempty"`
	Color string `json:"color,omitempty"`
	Error string `json:"error,omitempty"`
}

// Reviews serves /reviews/{id} and /health. With Config.Stars set it asks ratings.
func Reviews(cfg Config) http.Handler {
	client := cfg.client()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", health("Reviews"))
	mux.HandleFunc("GET /reviews/{id}", func(w http.ResponseWriter, r *http.Request) {
		id, ok := productID(w, r)
		if !ok {
			return
		}
		list := reviewList{
			ID: r.PathValue("id"), Pod: cfg.Pod, Cluster: or2(cfg.Cluster, "null"), Version: cfg.Version,
			Reviews: []review{
				{Reviewer: "Reviewer1", Text: "Twins, mistaken for each other all day long, and not one scene that drags. I laughed until the last page."},
				{Reviewer: "Reviewer2", Text: "A light play, quickly told. It has less depth than the later ones, and it does not pretend to more."},
			},
		}
		if cfg.Stars != "" {
			cfg.rate(list.Reviews, cfg.askRatings(r, client, id))
		}
		answer(w, http.StatusOK, list)
	})
	return mux
}

// askRatings returns stars by reviewer; nil where ratings gave no usable answer.
func (c Config) askRatings(r *http.Request, client *http.Client, id int) map[string]int {
	// As upstream's: who shows black stars waits long, the others do not.
	timeout := 2500 * time.Millisecond
	if c.Stars == "black" {
		timeout = 10 * time.Second
	}
	body, err := fetch(r.Context(), client, fmt.Sprintf("%s/ratings/%d", c.Ratings, id), handOn(r.Header), timeout)
	if err != nil {
		return nil
	}
	var s stars
	if json.Unmarshal(body, &s) != nil {
		return nil
	}
	return s.Ratings
}

// rate adds to each review its stars.
func (c Config) rate(reviews []review, byReviewer map[string]int) {
	for i := range reviews {
		n, ok := byReviewer[reviews[i].Reviewer]
		switch {
		case ok:
			reviews[i].Rating = &rating{Stars: n, Color: c.Stars}
		case byReviewer == nil:
			reviews[i].Rating = &rating{Error: "Ratings service is currently unavailable"}
		}
	}
}
