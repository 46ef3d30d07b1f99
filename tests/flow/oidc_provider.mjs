// A certified OpenID Connect provider (npm's `oidc-provider`) for test_single_sign_on.py, which starts it with node.
// PACKAGES is where npm installed it. Anybody may sign in as anybody: `name+group+group` has those groups.
// `POST /test/rotate` gives it a new signing key; it says where it listens on its first line.
import { generateKeyPairSync } from "node:crypto";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const { Provider } = await import(pathToFileURL(createRequire(`${process.env.PACKAGES}/`).resolve("oidc-provider")));
const AUDIENCE = "https://terascope.test";
const DEVICE = "urn:ietf:params:oauth:grant-type:device_code";
let keys = 0;

function newKey() {
  const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  keys += 1;
  return { ...privateKey.export({ format: "jwk" }), kid: `key-${keys}`, use: "sig", alg: "RS256" };
}

function groupsOf(account) {
  return account ? account.split("+").slice(1) : undefined;
}

function configuration() {
  return {
    clients: [
      {
        client_id: "terascope-cli",
        token_endpoint_auth_method: "none",
        grant_types: [DEVICE, "refresh_token"],
        response_types: [],
        redirect_uris: [],
        application_type: "native",
      },
      {
        client_id: "nightly-robot",
        client_secret: "the robot keeps this to itself",
        grant_types: ["client_credentials"],
        response_types: [],
        redirect_uris: [],
      },
    ],
    claims: { openid: ["sub"], profile: ["preferred_username", "groups"] },
    conformIdTokenClaims: false,
    cookies: { keys: ["of a test"] },
    extraTokenClaims: (_, token) => ({ groups: groupsOf(token.accountId) }),
    features: {
      clientCredentials: { enabled: true },
      deviceFlow: { enabled: true },
      revocation: { enabled: true },
      resourceIndicators: {
        enabled: true,
        useGrantedResource: () => true,
        getResourceServerInfo: (_, resource) => ({
          scope: "ask",
          audience: resource,
          accessTokenFormat: "jwt",
          accessTokenTTL: Number(process.env.TOKEN_S ?? 300),
        }),
      },
    },
    findAccount: (_, id) => ({
      accountId: id,
      claims: () => ({ sub: id, preferred_username: id.split("+")[0], groups: groupsOf(id) }),
    }),
    issueRefreshToken: () => true,
    jwks: { keys: [newKey()] },
    rotateRefreshToken: true,
  };
}

const server = createServer(async (request, response) => {
  if (request.url === "/test/rotate") {
    provider = make();
    response.end("{}");
  } else {
    provider.callback()(request, response);
  }
});
await new Promise((listens) => server.listen(0, "127.0.0.1", listens));
const issuer = `http://127.0.0.1:${server.address().port}`;
const adapter = new Map();

// what was issued outlives a change of keys: both providers keep it in one place
class Kept {
  constructor(kind) {
    this.kind = kind;
  }
  async upsert(id, payload) {
    adapter.set(`${this.kind}:${id}`, payload);
  }
  async find(id) {
    return adapter.get(`${this.kind}:${id}`);
  }
  async findByUserCode(userCode) {
    return this.by((payload) => payload.userCode === userCode);
  }
  async findByUid(uid) {
    return this.by((payload) => payload.uid === uid);
  }
  async consume(id) {
    adapter.get(`${this.kind}:${id}`).consumed = Math.floor(Date.now() / 1000);
  }
  async destroy(id) {
    adapter.delete(`${this.kind}:${id}`);
  }
  async revokeByGrantId(grantId) {
    for (const [key, payload] of adapter) if (payload.grantId === grantId) adapter.delete(key);
  }
  by(fits) {
    return [...adapter].find(([key, payload]) => key.startsWith(`${this.kind}:`) && fits(payload))?.[1];
  }
}

function make() {
  return new Provider(issuer, { ...configuration(), adapter: Kept });
}

let provider = make();
console.log(issuer);
