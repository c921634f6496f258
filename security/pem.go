package security

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
)

// maxPEMBytes is the longest file that is read. A bundle of all the CAs of an
// operating system has a quarter of that.
const maxPEMBytes = 1 << 20

// readPEM reads a file that is to be of PEM.
func readPEM(file, what string) ([]byte, error) {
	if file == "" {
		return nil, invalid("", fmt.Errorf("there is no %s file; name it", what))
	}
	f, err := os.Open(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, invalid(file, fmt.Errorf("the %s file does not exist; create it or name another: %w", what, fs.ErrNotExist))
	case errors.Is(err, fs.ErrPermission):
		return nil, invalid(file, fmt.Errorf("the %s file may not be read; give this user the permission: %w", what, fs.ErrPermission))
	case err != nil:
		return nil, invalid(file, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxPEMBytes+1))
	if err != nil {
		return nil, invalid(file, err)
	}
	if len(data) > maxPEMBytes {
		return nil, invalid(file, fmt.Errorf("it has more than %d bytes, so it is no %s file", maxPEMBytes, what))
	}
	return data, nil
}

// readCertificates reads one or more certificates.
func readCertificates(file, what string) (certs []*x509.Certificate, err error) {
	rest, err := readPEM(file, what)
	if err != nil {
		return nil, err
	}
	hasKey := false
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			hasKey = hasKey || strings.HasSuffix(block.Type, "PRIVATE KEY")
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, invalid(file, fmt.Errorf("certificate %d cannot be read: %w", len(certs)+1, err))
		}
		certs = append(certs, cert)
	}
	switch {
	case len(certs) > 0:
		return certs, nil
	case hasKey:
		return nil, invalid(file, fmt.Errorf("there is a private key where the %s should be; are two files mixed up?", what))
	default:
		return nil, invalid(file, fmt.Errorf("there is no %s in it; it must be in PEM, with a line BEGIN CERTIFICATE", what))
	}
}

// readKey reads a private key. Its errors have nothing in them that was read.
func readKey(file string) (crypto.Signer, error) {
	rest, err := readPEM(file, "key")
	if err != nil {
		return nil, err
	}
	hasCertificate := false
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		switch {
		case block.Type == "CERTIFICATE":
			hasCertificate = true
		case block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != "":
			return nil, invalid(file, errors.New("the key is encrypted; decrypt it, for instance with openssl pkey, and protect the file by its mode"))
		case strings.HasSuffix(block.Type, "PRIVATE KEY"):
			if key := parseKey(block.Bytes); key != nil {
				return key, nil
			}
			return nil, invalid(file, errors.New("the key cannot be read; it must be an RSA, ECDSA or Ed25519 key in PKCS#8, PKCS#1 or SEC 1"))
		}
	}
	if hasCertificate {
		return nil, invalid(file, errors.New("there is a certificate where the key should be; are two files mixed up?"))
	}
	return nil, invalid(file, errors.New("there is no private key in it; it must be in PEM, with a line BEGIN PRIVATE KEY"))
}

// parseKey returns nil if it can make nothing of it.
func parseKey(der []byte) crypto.Signer {
	if key, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		signer, _ := key.(crypto.Signer)
		return signer
	}
	if key, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return key
	}
	if key, err := x509.ParseECPrivateKey(der); err == nil {
		return key
	}
	return nil
}
