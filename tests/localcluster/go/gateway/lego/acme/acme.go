// Package acme stands in for the ACME client that Traefik names: what is needed to compile, and nothing that issues.
package acme

import "errors"

// ErrLeftOut is what everything here answers.
var ErrLeftOut = errors.New("this Traefik was built without ACME")

type Account struct{}

type ExtendedAccount struct {
	Account

	Location string
}
