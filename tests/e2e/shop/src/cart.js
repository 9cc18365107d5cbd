import "edition/cart.css";
import basket from "edition/basket.svg";
import { edition, items } from "edition/words.js";

/** Fill the section; done when its picture is there, too. */
export async function show(section) {
  const picture = new Image();
  picture.src = basket;
  await picture.decode();
  const list = document.createElement("p");
  list.textContent = `Edition ${edition}: ${items.join(", ")}`;
  section.dataset.edition = edition;
  section.replaceChildren(picture, list);
}
