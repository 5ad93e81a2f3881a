package broker

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// RedactURL hides the password or token in each of the comma-separated NATS
// URLs, for people to read.
func RedactURL(raw string) string {
	parts := strings.Split(raw, ",")
	for i, part := range parts {
		u, err := url.Parse(strings.TrimSpace(part))
		if err != nil {
			parts[i] = "(unreadable URL)"
			continue
		}
		if u.User != nil {
			if _, password := u.User.Password(); password {
				u.User = url.UserPassword(u.User.Username(), "xxxxx")
			} else {
				u.User = url.User("xxxxx")
			}
		}
		parts[i] = u.String()
	}
	return strings.Join(parts, ",")
}

// withoutURL takes the URL out of an error that quotes it, with the password
// that may be in it.
func withoutURL(err error) error {
	if quoting, ok := errors.AsType[*url.Error](err); ok {
		return quoting.Err
	}
	return err
}

// ValidateURL says what is wrong with the comma-separated NATS URLs, without
// their secrets.
func ValidateURL(raw string) error {
	for part := range strings.SplitSeq(raw, ",") {
		part = strings.TrimSpace(part)
		if !strings.Contains(part, "://") {
			part = "nats://" + part
		}
		u, err := url.Parse(part)
		switch {
		case err != nil:
			return fmt.Errorf("%w; special characters of a password are written as %%XX", withoutURL(err))
		case u.Hostname() == "":
			return errors.New("there is no host in it")
		}
	}
	return nil
}
