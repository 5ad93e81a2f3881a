package hostup

import "net/http"

func traced(_ Config, base http.RoundTripper) http.RoundTripper { return base }

func annotate(*http.Request, *exchange) {}
