package bookinfo

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"strings"
	"time"
)

//go:embed page
var page embed.FS

var templates = template.Must(template.New("").Funcs(template.FuncMap{"stars": drawStars}).ParseFS(page, "page/*.html"))

// product is the one book in the shop.
type product struct {
	ID          int    `json:"id"`
	Title       string `json:"title"`
	Description string `json:"descriptionHtml"`
}

var products = []product{{
	ID: 0, Title: "The Comedy of Errors",
	Description: "One of William Shakespeare's earliest plays, and his shortest: two pairs of twins, parted as children, " +
		"come to the same town on the same day, and everybody takes each of them for the other.",
}}

// How the product page waits, as upstream's does: reviews gets a second try.
const (
	hopTimeout  = 3 * time.Second
	reviewTries = 2
)

// What readers are told when a service is away.
const (
	noDetails = "Sorry, product details are currently unavailable for this book."
	noReviews = "Sorry, product reviews are currently unavailable for this book."
	noRatings = "Sorry, product ratings are currently unavailable for this book."
)

// sessionCookie holds the name of the signed-in user. Nothing secret hangs on it.
const sessionCookie = "session"

type productpage struct {
	Config
	client *http.Client
}

// Productpage serves the shop: HTML pages for people, /api/v1/products for programs.
func Productpage(cfg Config) http.Handler {
	p := &productpage{Config: cfg, client: cfg.client()}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", p.home)
	mux.HandleFunc("GET /index.html", p.home)
	mux.HandleFunc("GET /productpage", p.product)
	mux.HandleFunc("POST /login", p.login)
	mux.HandleFunc("GET /logout", p.logout)
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write([]byte("Product page is healthy\n"))
	})
	mux.HandleFunc("GET /api/v1/products", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, products) })
	mux.HandleFunc("GET /api/v1/products/{id}", p.api(p.details))
	mux.HandleFunc("GET /api/v1/products/{id}/reviews", p.api(p.reviews))
	mux.HandleFunc("GET /api/v1/products/{id}/ratings", p.api(p.ratings))
	mux.HandleFunc("GET /static/style.css", func(w http.ResponseWriter, r *http.Request) {
		http.ServeFileFS(w, r, page, "page/style.css")
	})
	return mux
}

// source asks a service about a product. The error's text is for readers.
type source func(ctx context.Context, h http.Header, id string) ([]byte, error)

func (p *productpage) details(ctx context.Context, h http.Header, id string) ([]byte, error) {
	return ask(ctx, p.client, p.Details+"/details/"+id, h, 1, noDetails)
}

func (p *productpage) reviews(ctx context.Context, h http.Header, id string) ([]byte, error) {
	return ask(ctx, p.client, p.Reviews+"/reviews/"+id, h, reviewTries, noReviews)
}

func (p *productpage) ratings(ctx context.Context, h http.Header, id string) ([]byte, error) {
	return ask(ctx, p.client, p.Ratings+"/ratings/"+id, h, 1, noRatings)
}

// ask gets JSON, trying again up to the given number of times in all.
func ask(ctx context.Context, client *http.Client, url string, h http.Header, tries int, sorry string) ([]byte, error) {
	var last *callError
	for range tries {
		body, err := fetch(ctx, client, url, h, hopTimeout)
		if err == nil && json.Valid(body) {
			return body, nil
		}
		if !errors.As(err, &last) {
			last = &callError{0, "no JSON"}
		}
	}
	status := last.status
	if status == 0 {
		status = http.StatusInternalServerError
	}
	return nil, &callError{status, sorry}
}

// headers are those that travel, with the signed-in user among them.
func headers(r *http.Request) http.Header {
	h := handOn(r.Header)
	if user := signedIn(r); user != "" {
		h.Set("End-User", user)
	}
	return h
}

func signedIn(r *http.Request) string {
	c, err := r.Cookie(sessionCookie)
	if err != nil {
		return ""
	}
	user, err := url.QueryUnescape(c.Value)
	if err != nil {
		return ""
	}
	return user
}

func (p *productpage) api(src source) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if _, ok := productID(w, r); !ok {
			return
		}
		body, err := src(r.Context(), headers(r), r.PathValue("id"))
		var refused *callError
		if errors.As(err, &refused) {
			refuse(w, refused.status, refused.detail)
			return
		}
		answer(w, http.StatusOK, json.RawMessage(body))
	}
}

func (p *productpage) login(w http.ResponseWriter, r *http.Request) {
	user := strings.TrimSpace(r.PostFormValue("username"))
	if user == "" {
		http.Error(w, "username is missing", http.StatusBadRequest)
		return
	}
	http.SetCookie(w, &http.Cookie{Name: sessionCookie, Value: url.QueryEscape(user), Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode})
	p.back(w, r)
}

func (p *productpage) logout(w http.ResponseWriter, r *http.Request) {
	http.SetCookie(w, &http.Cookie{Name: sessionCookie, Path: "/", MaxAge: -1})
	p.back(w, r)
}

// back returns to the page where the reader was, and to none but our own.
func (p *productpage) back(w http.ResponseWriter, r *http.Request) {
	to := "/productpage"
	if u, err := url.Parse(r.Referer()); err == nil && u.Host == r.Host && u.Path == "/productpage" {
		to = u.RequestURI()
	}
	http.Redirect(w, r, to, http.StatusFound)
}

// view is what the templates show.
type view struct {
	User, Profile string // signed-in user; the page's query parameter u
	Product       product
	Products      []product
	Details       *book
	DetailsError  string
	Reviews       *reviewList
	ReviewsError  string
	Pod           string
}

func (p *productpage) home(w http.ResponseWriter, r *http.Request) {
	render(w, "home.html", view{User: signedIn(r), Products: products, Pod: p.Pod})
}

// product shows what there is: a service that is away costs its own part of the page only.
func (p *productpage) product(w http.ResponseWriter, r *http.Request) {
	v := view{User: signedIn(r), Profile: r.URL.Query().Get("u"), Product: products[0], Pod: p.Pod}
	h, id := headers(r), fmt.Sprint(v.Product.ID)
	details := make(chan struct{})
	go func() { //nolint:contextcheck // it is the request's
		defer close(details)
		v.Details, v.DetailsError = decode[book](p.details(r.Context(), h.Clone(), id))
	}()
	v.Reviews, v.ReviewsError = decode[reviewList](p.reviews(r.Context(), h.Clone(), id))
	<-details
	render(w, "product.html", v)
}

func decode[T any](body []byte, err error) (*T, string) {
	if err != nil {
		return nil, err.Error()
	}
	v := new(T)
	if err := json.Unmarshal(body, v); err != nil {
		return nil, fmt.Sprintf("The service's answer could not be read: %v.", err)
	}
	return v, ""
}

func render(w http.ResponseWriter, name string, v view) {
	var b strings.Builder
	if err := templates.ExecuteTemplate(&b, name, v); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = w.Write([]byte(b.String())) // where it fails, nobody is left to tell
}

// drawStars is n of five stars as text.
func drawStars(n int) string {
	n = min(max(n, 0), 5)
	return strings.Repeat("★", n) + strings.Repeat("☆", 5-n)
}
