package hostup

import (
	"net/http"
	"net/url"
)

func traced(_ Config, _ *url.URL, calls http.RoundTripper) http.RoundTripper { return calls }
