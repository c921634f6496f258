package security

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/distributedcache/cache/internal/base"
)

// TLS says where the credentials of a node come from: all three files, or
// Provider.
type TLS struct {
	CertFile string // PEM: the certificate of the node, then those between it and the CA
	KeyFile  string // PEM: its private key
	CAFile   string // PEM: the CAs that sign the certificates of nodes
	Provider func() (*tls.Config, error)
}

// Credentials returns the credentials as a function that is to be called for
// each connection, after having checked what it returns now. Files are read
// once; a Provider may return something else at any time.
func (t TLS) Credentials() (func() (*tls.Config, error), error) {
	files := t.CertFile != "" || t.KeyFile != "" || t.CAFile != ""
	switch {
	case files && t.Provider != nil:
		return nil, fmt.Errorf("%w: certificates come from files or from a provider; leave out one of them", base.ErrInvalid)
	case t.Provider != nil:
		cfg, err := t.Provider()
		if err == nil {
			err = CheckTLS(cfg, time.Now())
		}
		if err != nil {
			return nil, invalid("the provider of certificates", err)
		}
		return t.Provider, nil
	case files:
		cfg, err := LoadTLS(t.CertFile, t.KeyFile, t.CAFile)
		if err != nil {
			return nil, err
		}
		return func() (*tls.Config, error) { return cfg, nil }, nil
	default:
		return nil, fmt.Errorf("%w: there are no certificates; name a certificate, a key and a CA file, or a provider", base.ErrInvalid)
	}
}

// LoadTLS reads PEM files and returns what a node needs as a server and as a
// client. The result must not be changed. The error, which wraps
// base.ErrInvalid, joins the faults of all files.
func LoadTLS(certFile, keyFile, caFile string) (*tls.Config, error) {
	certs, certErr := readCertificates(certFile, "certificate")
	key, keyErr := readKey(keyFile)
	cas, caErr := readCertificates(caFile, "CA")
	if err := errors.Join(certErr, keyErr, caErr); err != nil {
		return nil, err
	}
	if !fits(certs[0], key) {
		return nil, invalid(keyFile, fmt.Errorf("the key does not belong to the first certificate in %s; name the key that it was issued for", certFile))
	}
	cert := tls.Certificate{PrivateKey: key, Leaf: certs[0]}
	for _, c := range certs {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	pool := x509.NewCertPool()
	for _, ca := range cas {
		pool.AddCert(ca)
	}
	if err := checkNode(certs, pool, time.Now()); err != nil {
		var unknown x509.UnknownAuthorityError
		if errors.As(err, &unknown) {
			err = fmt.Errorf("%w; the CA that issued it, %q, is not in %s", err, certs[len(certs)-1].Issuer, caFile)
		}
		return nil, invalid(certFile, err)
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{cert},
		RootCAs:      pool,
		ClientCAs:    pool,
		ClientAuth:   tls.RequireAndVerifyClientCert,
	}, nil
}

// CheckTLS says why a node cannot use a configuration, as far as can be told
// from outside: certificates that a function of it chooses are not seen.
func CheckTLS(cfg *tls.Config, now time.Time) error {
	switch {
	case cfg == nil:
		return invalid("", errors.New("there is no TLS configuration"))
	case cfg.InsecureSkipVerify:
		return invalid("", errors.New("InsecureSkipVerify is set; it must not be, as nodes verify one another"))
	case cfg.RootCAs == nil && cfg.ClientCAs == nil:
		return invalid("", errors.New("neither RootCAs nor ClientCAs is set; one must have the CA that signs the certificates of nodes"))
	case len(cfg.Certificates) == 0 && (cfg.GetCertificate == nil || cfg.GetClientCertificate == nil):
		return invalid("", errors.New("there is no certificate: set Certificates, or both GetCertificate and GetClientCertificate"))
	case len(cfg.Certificates) == 0:
		return nil
	}
	var chain []*x509.Certificate
	for _, raw := range cfg.Certificates[0].Certificate {
		c, err := x509.ParseCertificate(raw)
		if err != nil {
			return invalid("", fmt.Errorf("a certificate cannot be read: %w", err))
		}
		chain = append(chain, c)
	}
	key, ok := cfg.Certificates[0].PrivateKey.(crypto.Signer)
	if len(chain) == 0 || !ok || !fits(chain[0], key) {
		return invalid("", errors.New("the private key does not belong to the certificate"))
	}
	roots := cfg.RootCAs
	if roots == nil {
		roots = cfg.ClientCAs
	}
	if err := checkNode(chain, roots, now); err != nil {
		return invalid("", err)
	}
	return nil
}

// checkNode wants a chain, the own certificate first, with which a node can
// both accept and open connections.
func checkNode(chain []*x509.Certificate, roots *x509.CertPool, now time.Time) error {
	leaf := chain[0]
	switch {
	case now.Before(leaf.NotBefore):
		return fmt.Errorf("the certificate is not valid before %s, and the clock says %s; set the clock or wait", utc(leaf.NotBefore), utc(now))
	case now.After(leaf.NotAfter):
		return fmt.Errorf("the certificate expired at %s; issue a new one", utc(leaf.NotAfter))
	case len(leaf.DNSNames)+len(leaf.IPAddresses) == 0:
		return errors.New("the certificate names no host; issue one with the host name or IP address that other nodes dial among its subject alternative names")
	case leaf.KeyUsage != 0 && leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return errors.New("the certificate lacks the key usage digitalSignature; issue one that has it")
	}
	if missing := missingUsages(leaf); missing != "" {
		return fmt.Errorf("the certificate lacks the extended key usage %s; a node accepts and opens connections, so issue one with both serverAuth and clientAuth", missing)
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		options := x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage}}
		if _, err := leaf.Verify(options); err != nil {
			return fmt.Errorf("the certificate cannot be verified by other nodes: %w", err)
		}
	}
	return nil
}

// missingUsages names what a certificate lacks of the two. One without any
// extended usage is good for all.
func missingUsages(leaf *x509.Certificate) string {
	has := func(u x509.ExtKeyUsage) bool { return slices.Contains(leaf.ExtKeyUsage, u) }
	if len(leaf.ExtKeyUsage)+len(leaf.UnknownExtKeyUsage) == 0 || has(x509.ExtKeyUsageAny) {
		return ""
	}
	var missing []string
	if !has(x509.ExtKeyUsageServerAuth) {
		missing = append(missing, "serverAuth")
	}
	if !has(x509.ExtKeyUsageClientAuth) {
		missing = append(missing, "clientAuth")
	}
	return strings.Join(missing, " and ")
}

// fits reports whether the key is that of the certificate.
func fits(cert *x509.Certificate, key crypto.Signer) bool {
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(cert.PublicKey)
}

func utc(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// invalid says what is wrong with a file, or with something else.
func invalid(name string, err error) error {
	switch {
	case errors.Is(err, base.ErrInvalid) && name == "":
		return err
	case errors.Is(err, base.ErrInvalid):
		return fmt.Errorf("%s: %w", name, err)
	case name == "":
		return fmt.Errorf("%w: %w", base.ErrInvalid, err)
	default:
		return fmt.Errorf("%w: %s: %w", base.ErrInvalid, name, err)
	}
}
