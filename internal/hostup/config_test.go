package hostup

import (
	"strings"
	"testing"
	"time"
)

func TestConfigValidate(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		cfg  Config
		want string // "" for valid
	}{
		"defaults":        {Config{}, ""},
		"https":           {Config{BaseURL: "https://api.example.com/v2/"}, ""},
		"loopback":        {Config{BaseURL: "http://127.0.0.1:8080/api"}, ""},
		"loopback, v6":    {Config{BaseURL: "http://[::1]:8080"}, ""},
		"localhost":       {Config{BaseURL: "http://LOCALHOST:1"}, ""},
		"plain":           {Config{BaseURL: "http://api.example.com"}, `"http://api.example.com" would send the API key unencrypted`},
		"looks local":     {Config{BaseURL: "http://127.0.0.1.example.com"}, "unencrypted"},
		"plain, allowed":  {Config{BaseURL: "http://api.example.com", AllowHTTP: true}, ""},
		"scheme":          {Config{BaseURL: "ftp://x"}, `"ftp://x" must be an absolute https URL`},
		"relative":        {Config{BaseURL: "cloud.hostup.se"}, "must be an absolute"},
		"no host":         {Config{BaseURL: "https:///api"}, "must be an absolute"},
		"user":            {Config{BaseURL: "https://me:hunter2@x"}, "must not contain a user"},
		"query":           {Config{BaseURL: "https://x/?key=1"}, "must not have a query"},
		"not a URL":       {Config{BaseURL: "https://me:hunter2@x:port"}, "is not a URL"},
		"read timeout":    {Config{ReadTimeout: -time.Second}, "-1s must be positive"},
		"retry-after max": {Config{RetryAfterMax: -time.Minute}, "-1m0s must be positive"},
		"user agent":      {Config{UserAgent: "a\r\nb"}, "must be printable"},
	} {
		tc.cfg.Token = mustStatic(t, testKey)
		err := tc.cfg.Validate()
		if tc.want == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
	err := Config{BaseURL: "ftp://x", ReadTimeout: -1}.Validate()
	if err == nil || strings.Count(err.Error(), "\n") != 2 || !strings.Contains(err.Error(), "there is no API key") {
		t.Errorf("not everything is reported: %v", err)
	}
	if c, err := New(Config{}); c != nil || err == nil {
		t.Error("New took a configuration without a key")
	}
}
