import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";

// The mode is the edition: its folder has the words, the colours and the pictures that differ.
export default defineConfig(({ mode }) => ({
  resolve: { alias: { edition: fileURLToPath(new URL(`src/${mode}`, import.meta.url)) } },
  build: {
    outDir: `built/${mode}`,
    // Every picture is a file with a hashed name, however small.
    assetsInlineLimit: 0,
  },
}));
