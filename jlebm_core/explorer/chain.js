// Seeded noise and the Langevin chain of the prior.

// Uniform bits by xoshiro128** (Blackman and Vigna 2018), its state filled by splitmix32; normal
// numbers in pairs by Box and Muller: r cos t, then r sin t, r^2 = -2 log u, t = 2 pi v.
export class Random {
  constructor(seed) {
    let x = seed >>> 0;
    this.s = Uint32Array.from({ length: 4 }, () => {
      x = (x + 0x9e3779b9) >>> 0;
      let y = Math.imul(x ^ (x >>> 16), 0x21f0aaad);
      y = Math.imul(y ^ (y >>> 15), 0x735a2d97);
      return y ^ (y >>> 15);
    });
    this.spare = null;
  }

  bits() {
    const s = this.s,
      five = Math.imul(s[1], 5),
      t = s[1] << 9;
    const result = Math.imul((five << 7) | (five >>> 25), 9) >>> 0;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = (s[3] << 11) | (s[3] >>> 21);
    return result;
  }

  uniform() {
    return (this.bits() + 0.5) / 2 ** 32;
  } // never 0 or 1

  normal() {
    if (this.spare !== null) {
      const z = this.spare;
      this.spare = null;
      return z;
    }
    const r = Math.sqrt(-2 * Math.log(this.uniform())),
      t = 2 * Math.PI * this.uniform();
    this.spare = r * Math.sin(t);
    return r * Math.cos(t);
  }
}

const grad = new Float32Array(4096); // scratch: no code is longer

// z <- z + (s^2 / 2) (grad f(z) - z) + s temperature eps, in place; returns f at the old z.
// Noise is drawn for every coordinate: it does not depend on which of them are free.
export function langevinStep(f, z, random, { stepSize, temperature = 1, free = null }) {
  const value = f.gradient(z, grad),
    drift = stepSize ** 2 / 2,
    spread = stepSize * temperature;
  for (let i = 0; i < z.length; i++) {
    const move = drift * (grad[i] - z[i]) + spread * random.normal();
    if (!free || free[i]) z[i] += move;
  }
  return value;
}

export function normalCode(random, length) {
  return Float32Array.from({ length }, () => random.normal());
}
