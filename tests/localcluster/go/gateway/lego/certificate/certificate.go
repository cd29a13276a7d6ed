package certificate

import (
	"context"
	"crypto"
	"time"

	"github.com/go-acme/lego/v5/acme"
	"github.com/go-acme/lego/v5/certcrypto"
)

type Resource struct {
	ID          string
	Domains     []string
	PrivateKey  []byte
	Certificate []byte
}

type ObtainRequest struct {
	Domains          []string
	MustStaple       bool
	EmailAddresses   []string
	PrivateKey       crypto.Signer
	KeyType          certcrypto.KeyType
	Bundle           bool
	PreferredChain   string
	EnableCommonName bool
	Profile          string
}

type RenewOptions struct {
	NotBefore, NotAfter time.Time
	Bundle              bool
	PreferredChain      string
	EnableCommonName    bool
	Profile             string
	MustStaple          bool
	EmailAddresses      []string
}

type Certifier struct{}

func (*Certifier) Obtain(context.Context, ObtainRequest) (*Resource, error) {
	return nil, acme.ErrLeftOut
}

func (*Certifier) Renew(context.Context, Resource, *RenewOptions) (*Resource, error) {
	return nil, acme.ErrLeftOut
}
